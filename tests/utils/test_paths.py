"""Paths with ~ and environment variables, folders that cannot be, and names of settings typed out of habit."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.circuits import __main__ as explaining
from pipeline.config.fields import parameters_of
from pipeline.config.habits import HABITS
from pipeline.config.options import Options
from pipeline.config.registry import BLOCKS, load
from pipeline.config.trainer_keys import keys, refuse
from pipeline.config.trainer_policy import REFUSED, REMOVED
from pipeline.corpora.published import Published
from pipeline.corpora.store import cache_home
from pipeline.data.text import Texts
from pipeline.models.pretrained import Pretrained
from pipeline.report import __main__ as report
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.paths import expanded, obstacle
from tests.tiny import RECIPE, run_here, write_recipe


def test_paths_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/fast/me")
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("$SCRATCH/x", "k") == expanded("${SCRATCH}/x", "k") == Path("/fast/me/x")
    assert expanded("~/x", "k") == Path("/home/me/x") and expanded("runs/x", "k") == Path("runs/x")
    monkeypatch.setenv("SCRATCH", "~/scratch")
    assert expanded("$SCRATCH/x", "k") == Path("/home/me/scratch/x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$NOWHERE/x", "k: $NOWHERE/x: the environment variable NOWHERE is not set"),
        ("a/${NOWHERE}", "k: a/${NOWHERE}: the environment variable NOWHERE is not set"),
        ("~nobody-here/x", "k: ~nobody-here/x: nobody here has the home ~nobody-here"),
    ],
)
def test_what_is_not_set_is_a_line(text: str, message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        expanded(text, "k")
    assert str(caught.value) == message


def test_a_run_goes_where_a_variable_says_or_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCRATCH", raising=False)
    recipe = write_recipe(tmp_path, f"{RECIPE}output_dir: $SCRATCH/out\n")
    assert run_here(recipe, "--output_dir=$SCRATCH/out") == 2
    said = "command line: output_dir: $SCRATCH/out: the environment variable SCRATCH is not set\n"
    assert capsys.readouterr().err == said and [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
    monkeypatch.setenv("SCRATCH", str(tmp_path / "fast"))
    assert run_here(recipe, "--output_dir=$SCRATCH/out", "--max_steps", "2") == 0
    assert (tmp_path / "fast" / "out" / "report.html").exists() and not (tmp_path / "$SCRATCH").exists()


def test_every_key_that_is_a_path_is_expanded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOWHERE", raising=False)
    unset = "the environment variable NOWHERE is not set"
    for act in (
        lambda: list(Published(path="$NOWHERE/x").splits()),
        lambda: Pretrained(model_name_or_path="$NOWHERE/x").origin,
        lambda: next(iter(Texts(source="$NOWHERE/x").documents())),
    ):
        with pytest.raises(ParameterError, match=unset):
            act()
    with monkeypatch.context() as patch, pytest.raises(RecipeError, match=f"environment: GROKLAB_CACHE: .*{unset}"):
        patch.setenv("GROKLAB_CACHE", "$NOWHERE/x")
        cache_home()
    assert report.main(["$NOWHERE/x"]) == 2
    for words in (["$NOWHERE/x"], [".", "--data", "$NOWHERE/x"], ["--model", "$NOWHERE/x", "--data", "pairs.csv"]):
        assert explaining.main([*words, "--analysis", "logit_lens"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4 and all(unset in line for line in said)


def test_an_output_folder_that_cannot_be_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("")
    for name, reason in {
        "gone": f"{tmp_path}/gone is a link to {tmp_path}/nowhere, which is not there",
        "gone/run": f"{tmp_path}/gone is a link to {tmp_path}/nowhere, which is not there",
        "loop": f"{tmp_path}/loop is a link to {tmp_path}/loop, which is not there",
        "file/run": f"{tmp_path}/file is a file, not a folder",
        "x" * 300: f"{tmp_path}/{'x' * 300} cannot be a folder: File name too long",
    }.items():
        assert run_here(recipe, "--output_dir", str(tmp_path / name)) == 2
        assert capsys.readouterr().err == f"output_dir: {reason}; choose another with --output_dir\n"
    # A link to a folder is as good as the folder.
    (tmp_path / "nowhere").mkdir()
    assert obstacle(tmp_path / "gone" / "run") is None


# Habits


def test_habits_are_no_keys_and_lead_to_keys() -> None:
    ours = {field.name for field in parameters_of(Options)}
    assert not HABITS.keys() & {*keys(), *ours, *BLOCKS, *REFUSED, *REMOVED}
    inside = {
        *(f"model.{field.name}" for field in parameters_of(load("models", "gpt2", ""))),
        *(f"model.{field.name}" for field in parameters_of(Pretrained)),
        *(f"corpus.{field.name}" for field in parameters_of(load("corpora", "group", ""))),
    }
    meant = {habit for habit in HABITS.values() if " " not in habit}
    assert meant <= {*keys(), *ours, *inside, "corpus.name", "collator"}


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("lr", "did you mean learning_rate?"),
        ("wd", "did you mean weight_decay?"),
        ("batch_size", "did you mean global_batch_size?"),
        ("batch-size", "did you mean global_batch_size?"),
        ("epochs", "did you mean num_train_epochs?"),
        ("steps", "did you mean max_steps?"),
        ("lr_scheduler", "did you mean lr_scheduler_type?"),
        ("seed_everything", "did you mean seed?"),
        ("optimizer", "did you mean optim?"),
        ("grad_clip", "did you mean max_grad_norm?"),
        ("device", "a GPU is used where there is one; write use_cpu: true for the CPU, or set CUDA_VISIBLE_DEVICES"),
        ("resume", "rerunning the same command resumes"),
        ("num_layers", "did you mean model.n_layer?"),
        ("learning_rat", "did you mean learning_rate?"),
    ],
)
def test_habitual_names_lead_to_the_right_key(word: str, meant: str) -> None:
    assert str(refuse(word, [])) == f"{word}: unknown key; {meant}"


def test_a_habit_on_the_command_line_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(write_recipe(tmp_path), "--device", "cuda") == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("command line: device: unknown key; a GPU is used where there is one") and said.count("\n") == 1
    )
