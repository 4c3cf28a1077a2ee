"""The command line is told apart into recipe and overrides, and the help says what there is, at any width."""

from __future__ import annotations

import itertools

import pytest

from pipeline.config import trainer_policy as policy
from pipeline.config.fields import parameters_of
from pipeline.config.help import help_text, split_words, wants_help
from pipeline.config.options import Options
from pipeline.config.registry import BLOCKS, ROOMS, load, names
from pipeline.config.trainer_keys import keys
from pipeline.run import main
from pipeline.utils.errors import RecipeError

FIRST = "corpus: {name: group}"


@pytest.mark.parametrize(
    ("argv", "path", "overrides"),
    [
        (["r.yaml"], "r.yaml", []),
        (["r.yaml", "--a", "1", "--b=2", "--c"], "r.yaml", ["--a=1", "--b=2", "--c"]),
        (["--a", "-1", "r.yaml"], "r.yaml", ["--a=-1"]),
        (["--a=1", "r.yaml", "--b", "x y"], "r.yaml", ["--a=1", "--b=x y"]),
        (["--config", "r.yaml", "--a", "1"], "r.yaml", ["--a=1"]),
        (["--a", "1", "--config=r.yaml"], "r.yaml", ["--a=1"]),
        (["r.yaml", "--a", "k=v"], "r.yaml", ["--a=k=v"]),
        (["r.yaml", "--a", ""], "r.yaml", ["--a="]),
    ],
)
def test_split_words(argv: list[str], path: str, overrides: list[str]) -> None:
    assert split_words(argv) == (path, overrides)


HINT = "overrides are written --key value, and lists [a, b]"
MISTAKES = {
    "r.yaml other.yaml": f"other.yaml: a run has one recipe, here r.yaml; {HINT}",
    "r.yaml --report_to wandb tensorboard": f"tensorboard: a run has one recipe, here r.yaml; {HINT}",
    "r.yaml --config s.yaml": f"s.yaml: a run has one recipe, here r.yaml; {HINT}",
    "": "no recipe; name one, such as recipes/quickstart.yaml",
    "--config": "--config: is no recipe; write RECIPE --key value",
    "-lr 1": "-lr: is no recipe; write RECIPE --key value",
    "r.yaml -lr 1": "-lr: is no recipe; write RECIPE --key value",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_second_recipe_is_refused(words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        split_words(words.split())
    assert str(caught.value) == f"command line: {MISTAKES[words]}"


def test_help_names_all_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = help_text()
    assert text.startswith("usage: ")
    entries = [name for room in ROOMS if room != "claims" for name in names(room)]
    words = set(text.replace(":", " ").replace(",", " ").split())
    assert words >= {*entries, *BLOCKS, *keys(), *(field.name for field in parameters_of(Options))}
    assert not words & (policy.REFUSED.keys() | policy.REMOVED.keys()) - {"tokenizer"}
    assert f"  optim: {policy.DEFAULTS['optim']} " in text and "  learning_rate: 5e-05 " in text
    # What a newcomer needs comes first, transformers' keys last.
    order = [
        text.index(part) for part in ("recipes/quickstart.yaml", "Blocks", "  stop_when: never", "  learning_rate: ")
    ]
    assert order == sorted(order)


TOPICS = [
    "corpus",
    "model",
    "callbacks",
    "circuits",
    "checkpoints",
    "paper",
    "group",
    "gpt2",
    "weight_norm",
    "optim",
    "stop_when",
    "model.n_layer",
    "seed",
]


@pytest.mark.parametrize("columns", [40, 80, 100, 300])
@pytest.mark.parametrize("argv", [[], *(["--help", topic] for topic in TOPICS)], ids=" ".join)
def test_help_keeps_to_the_terminal(argv: list[str], columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = help_text(argv)
    width = min(max(columns, 60), 120)
    # Examples of commands stay whole, to be copied.
    assert all(len(line) <= width for line in text.splitlines() if "pipeline" not in line)
    assert text.endswith("\n") and "\n\n\n" not in text


def test_help_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = help_text(["--help", "group"])
    assert text.startswith(f"{FIRST}\n  a∘b = c ")
    for field in parameters_of(load("corpora", "group", "")):
        assert f"\n  {field.name}: " in text
    assert "(a number > 0 and < 1)" in text
    assert help_text(["--help", "corpora"]) == help_text(["-h", "corpus"]) != text
    assert text in help_text(["--help", "corpus"])
    assert help_text(["--help", "stop_patience"]).startswith("stop_patience: 3\n  evaluations in a row")
    assert "adamw_torch" in help_text(["--help", "optim"]) and "lomo" not in help_text(["--help", "--optim"])
    assert help_text(["--help", "callbacks"]).startswith(f"callbacks: {{{names('callbacks')[0]}: {{}}}}\n")


def test_help_of_a_key_in_all_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = help_text(["--help", "model.n_layer"])
    owners = [
        name for name in names("models") if "n_layer" in {f.name for f in parameters_of(load("models", name, ""))}
    ]
    listed = [line.rstrip(":").split(", ") for line in text.replace(",\n", ", ").splitlines() if line.endswith(":")]
    assert sorted(name for line in listed for name in line) == owners and "(a whole number >= 1 or null)" in text
    assert help_text(["--help", "n_layer"]) == text
    for topic in ("group.train_fraction", "circuits.causal_tracing.corruption", "checkpoints.every"):
        text = help_text(["--help", topic])
        assert text.startswith(f"{topic.split('.')[-2]}:\n  {topic.split('.')[-1]}: ")
    with pytest.raises(RecipeError):
        help_text(["--help", "corpus.n_layer"])


@pytest.mark.parametrize(("room", "name"), [(room, name) for room in ROOMS if room != "claims" for name in names(room)])
def test_paragraphs_are_broken_anew(room: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the lines of the docstring: in a wide terminal each paragraph is full but for its last line."""
    monkeypatch.setenv("COLUMNS", "120")
    about = help_text(["--help", name]).partition("\n\n  ")[0].splitlines()[1:]
    for line, after in itertools.pairwise(about):
        if line.strip() and after.strip() and not line.startswith("   ") and not after.startswith("   "):
            assert len(f"{line} {after.split()[0]}") > 120, (line, after)


def test_keys_that_change_nothing_are_left_out() -> None:
    assert "  activation: " in help_text(["--help", "gpt2"])
    assert "  activation: " not in help_text(["--help", "gpt2_bilinear"])


def test_help_of_nothing() -> None:
    with pytest.raises(RecipeError) as caught:
        help_text(["--help", "lerning_rate"])
    assert str(caught.value) == "command line: --help lerning_rate: nothing has this name; did you mean learning_rate?"


def test_wants_help() -> None:
    assert wants_help([]) and wants_help(["-h"]) and wants_help(["r.yaml", "--help"]) and not wants_help(["r.yaml"])


def test_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0 and capsys.readouterr().out.startswith("usage: ")
    assert main(["-h", "group"]) == 0 and capsys.readouterr().out.startswith(FIRST)
    assert main(["--help", "nothing"]) == 2 and capsys.readouterr().err.startswith("command line: --help nothing: ")
    assert main([]) == 2 and capsys.readouterr().out.startswith("usage: ")
    assert main(["--seed", "1"]) == 2 and capsys.readouterr().err.startswith("command line: no recipe; ")
    assert main(["nowhere.yaml"]) == 2 and capsys.readouterr().err.startswith("nowhere.yaml: no such file")
