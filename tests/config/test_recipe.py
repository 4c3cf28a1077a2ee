"""Every recipe becomes one typed object that can be written out and read again, or one line that names the mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.recipe import Options, Recipe, read_recipe
from pipeline.config.registry import load
from pipeline.config.trainer_keys import keys
from pipeline.config.trainer_policy import DEFAULTS
from pipeline.runs.checkpoints import KeepSchedule
from pipeline.utils.errors import ParameterError, RecipeError
from tests.tiny import ROOT

HEAD = "corpus: {name: group}\nmodel: {name: gpt2}\n"
BASE = f"{HEAD}max_steps: 10\n"


def recipe_of(folder: Path, text: str, *words: str) -> Recipe:
    path = folder / "r.yaml"
    path.write_text(text)
    return read_recipe(path, words)


def complaint(folder: Path, text: str, *words: str) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe_of(folder, text, *words)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value).replace(f"{folder}{os.sep}", "")


def test_command_line_before_recipe_before_default(tmp_path: Path) -> None:
    text = BASE + "seed: 1\nlearning_rate: 1e-3\ncheckpoints: {initial: false}\n"
    recipe = recipe_of(tmp_path, text, "--seed", "2", "--corpus.seed=3", "--checkpoints.every", "[[5, null]]")
    assert (recipe.training["seed"], recipe.training["learning_rate"], recipe.training["eval_steps"]) == (2, 1e-3, 100)
    assert recipe.corpus == load("corpora", "group", "")(seed=3)
    assert recipe.checkpoints == KeepSchedule(initial=False, every=((5, None),))
    assert recipe.options == Options(global_batch_size=512)
    assert (recipe.name, recipe.training["output_dir"]) == ("r", "runs/r")


def test_null_is_the_default_and_lifts_the_limit_of_checkpoints(tmp_path: Path) -> None:
    assert recipe_of(tmp_path, BASE + "output_dir:\nrun_name: ~\neval_steps: null\nreport_to: null\n") == recipe_of(
        tmp_path, BASE
    )
    assert recipe_of(tmp_path, BASE).training["save_total_limit"] == DEFAULTS["save_total_limit"]
    assert recipe_of(tmp_path, BASE + "save_total_limit: null\n").training["save_total_limit"] is None


def test_max_steps_counts_before_epochs_and_minus_one_means_none(tmp_path: Path) -> None:
    assert "max_steps" not in recipe_of(tmp_path, HEAD + "max_steps: -1\nnum_train_epochs: 2\n").training
    assert recipe_of(tmp_path, HEAD + "num_train_epochs: 2\n", "--max_steps", "7").training["max_steps"] == 7


def test_a_home_folder_is_meant_by_its_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert recipe_of(tmp_path, BASE + "output_dir: ~/runs/a\n").output_dir == tmp_path / "runs" / "a"


# What a recipe gives of the batch, the processes, and what the Trainer then gets: rows on a device, accumulation.
BATCHES = [
    ("", 1, 512, (512, 1)),
    ("", 4, 512, (128, 1)),
    ("global_batch_size: 96", 3, 96, (32, 1)),
    ("global_batch_size: 96\nper_device_train_batch_size: 8", 1, 96, (8, 12)),
    ("global_batch_size: 96\nper_device_train_batch_size: 8", 4, 96, (8, 3)),
    ("global_batch_size: 96\nper_device_train_batch_size: 32", 6, 96, (16, 1)),
    ("global_batch_size: 96\nper_device_train_batch_size: 32", 2, 96, (24, 2)),
    # The largest part of a device's rows that it can take at a time, and not what both have in common.
    ("global_batch_size: 384\nper_device_train_batch_size: 128", 2, 384, (96, 2)),
    ("global_batch_size: 768\nper_device_train_batch_size: 256", 2, 768, (192, 2)),
    ("global_batch_size: 96\nper_device_train_batch_size: 128", 2, 96, (48, 1)),
    ("global_batch_size: 96\ngradient_accumulation_steps: 6", 2, 96, (8, 6)),
    ("global_batch_size: 96\nper_device_train_batch_size: 8\ngradient_accumulation_steps: 6", 2, 96, (8, 6)),
    ("per_device_train_batch_size: 8", 2, 16, (8, 1)),
    ("per_device_train_batch_size: 8\ngradient_accumulation_steps: 4", 2, 64, (8, 4)),
    ("gradient_accumulation_steps: 4", 2, 512, (64, 4)),
]


def launched(monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    """Makes this process the first of several, as a launcher says it."""
    told = {"WORLD_SIZE": processes, "RANK": 0, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(("lines", "processes", "rows", "split"), BATCHES)
def test_batches(
    lines: str, processes: int, rows: int, split: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, processes)
    recipe = recipe_of(tmp_path, f"{BASE}{lines}\n")
    assert recipe.options.global_batch_size == rows
    assert tuple(recipe.batches(processes).values()) == split
    # Written out and run on other processes, an update has as many rows.
    for other in (number for number in range(1, rows + 1) if rows % number == 0):
        launched(monkeypatch, other)
        again = recipe_of(tmp_path, recipe.to_yaml())
        assert again == recipe
        on_device, accumulation = again.batches(other).values()
        assert on_device * accumulation * other == rows


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "r.yaml: 512 rows do not divide by 3 processes; write a multiple of 3"),
        (
            "global_batch_size: 96\nper_device_train_batch_size: 5",
            "r.yaml:4: 96 rows do not divide by per_device_train_batch_size 5; write a multiple of 5",
        ),
        (
            "gradient_accumulation_steps: 5\nglobal_batch_size: 96",
            "r.yaml:5: 96 rows do not divide by gradient_accumulation_steps 5 x 3 processes; write a multiple of 15",
        ),
        (
            "global_batch_size: 2",
            "r.yaml:4: 2 rows do not divide by 3 processes; write a multiple of 3",
        ),
    ],
)
def test_a_batch_that_processes_cannot_share(
    lines: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, 3)
    assert complaint(tmp_path, f"{BASE}{lines}\n").replace(" global_batch_size:", "") == message


def test_a_mistake_found_later_still_has_its_place(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "corpus:\n  name: group\nmodel: {name: gpt2}\nmax_steps: 10\n", "--seed", "3")
    path = tmp_path / "r.yaml"
    for key, where in {"corpus.train_fraction": f"{path}:1", "seed": "command line", "fsdp": str(path)}.items():
        assert str(recipe.located(ParameterError(key, "is wrong"))) == f"{where}: {key}: is wrong"


# Words as a user might type them, right and wrong.
word = st.one_of(
    st.text(),
    st.sampled_from(
        ["--seed", "--corpus.seed=1", "--corpus", "--max_steps", "5", "--", "--=", "{", "[1", "--callbacks.x.y", "a.b"]
    ),
    st.builds(
        "--{}={}".format,
        st.sampled_from([*keys(), "corpus", "corpus.group", "checkpoints.every", "paper.numbers.x"]),
        st.text(),
    ),
)


@given(st.lists(word, max_size=5))
def test_any_words_are_a_recipe_or_one_line(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        recipe = recipe_of(folder, BASE, *words)
    except RecipeError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert recipe_of(folder, recipe.to_yaml()) == recipe


@given(
    st.lists(st.sampled_from(["\n", " ", ":", "- ", "[", "]", "{", "}", "#", "'", "*a", "!b", "1", "x"]), max_size=4),
    st.integers(0, 10**6),
)
def test_any_slip_in_a_recipe_is_a_recipe_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, slip: list[str], at: int
) -> None:
    text = (
        BASE + "checkpoints:\n  every: [[10, 100], [20, null]]\ncallbacks:\n  weight_norm:\n    per_parameter: true\n"
    )
    at %= len(text)
    try:
        recipe_of(tmp_path_factory.getbasetemp(), text[:at] + "".join(slip) + text[at:])
    except RecipeError as error:
        assert len(str(error).splitlines()) == 1


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
    )


def test_both_ways_to_start_refuse_alike_and_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(BASE + "lerning_rate: 1e-3\n")
    for command in (["-m", "pipeline.run"], [str(ROOT / "pipeline" / "run.py")]):
        result = run(*command, "r.yaml", cwd=tmp_path)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == "r.yaml:4: lerning_rate: unknown key; did you mean learning_rate?\n"
    assert os.listdir(tmp_path) == ["r.yaml"]


def test_reading_and_help_import_neither_torch_nor_transformers(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from pipeline.config.recipe import read_recipe
        from pipeline.config.help import help_text
        recipes = sorted(Path(sys.argv[1]).glob("*.yaml"))
        for path in recipes:
            read_recipe(path)
        for name in ("corpus", "model", "callbacks", "circuits", "checkpoints", "optim"):
            help_text(["--help", name])
        help_text()
        assert not {"torch", "transformers", "datasets", "accelerate"} & sys.modules.keys()
        print(len(recipes))
    """
    result = run("-c", code, str(ROOT / "recipes"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) == len(list((ROOT / "recipes").glob("*.yaml"))) > 0
