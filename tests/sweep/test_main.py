"""A sweep runs its grid, goes on with what is unfinished, reports what failed, and draws all curves together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.config.recipe import read_recipe
from pipeline.runs.manifest import Manifest
from pipeline.sweep.__main__ import main
from pipeline.sweep.grid import LOG, grid, moved_by_seeds, values_of
from pipeline.sweep.jobs import at_a_time, gpu_names
from pipeline.utils.errors import RecipeError
from pipeline.utils.paths import folder_name
from pipeline.utils.signals import SAVED
from tests.slurm_cluster import Cluster
from tests.tiny import RECIPE, ROOT, run_here, write_recipe
from tests.utils.test_signals import ENDLESS, wait_for_step

SIZES = ("--model.n_embd=256", "--model.n_embd=260", "--model.n_embd=null")


def test_commas_separate_values_outside_of_brackets_and_quotes() -> None:
    assert values_of("3.6,9, 18") == ["3.6", "9", "18"]
    assert values_of("[[1,2],[3,null]]") == ["[[1,2],[3,null]]"]
    assert values_of("[a,b],c,{d: 1,e: 2}") == ["[a,b]", "c", "{d: 1,e: 2}"]
    assert values_of("'a=1,b=2',x") == ["'a=1,b=2'", "x"]
    assert values_of("one") == ["one"]


def test_the_grid_is_the_product_of_the_values(tmp_path: Path) -> None:
    words = ["--seed", "0,1", "--max_steps", "3", "--corpus.train_fraction=0.4,0.6"]
    points = grid(str(write_recipe(tmp_path)), words, tmp_path / "out")
    assert [point.name for point in points] == [
        *("seed=0,train_fraction=0.4", "seed=0,train_fraction=0.6"),
        *("seed=1,train_fraction=0.4", "seed=1,train_fraction=0.6"),
    ]
    assert len({point.folder for point in points}) == 4
    assert all(point.recipe.training["max_steps"] == 3 for point in points)
    assert [point.recipe.corpus.train_fraction for point in points] == [0.4, 0.6, 0.4, 0.6]
    assert [point.recipe.training["seed"] for point in points] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--seed", "0,1"],
            "--seed: moves initial weights and dropout, order of rows; stays: corpus (--corpus.seed moves it)",
        ),
        (
            ["--seed", "0,1", "--data_seed", "3"],
            "--seed: moves initial weights and dropout; stays: order of rows, corpus (--corpus.seed moves it)",
        ),
        (
            ["--data_seed", "0,1"],
            "--data_seed: moves order of rows; stays: initial weights and dropout, corpus (--corpus.seed moves it)",
        ),
        (
            ["--seed", "0,1", "--corpus.seed", "0,1"],
            "--seed, --corpus.seed: moves initial weights and dropout, order of rows, corpus",
        ),
        (["--weight_decay", "0,1"], None),
    ],
)
def test_a_sweep_over_seeds_says_what_they_move(words: list[str], line: str | None, tmp_path: Path) -> None:
    points = grid(str(write_recipe(tmp_path)), words, tmp_path / "out")
    assert moved_by_seeds([point.recipe for point in points]) == line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "0"], "no key has several values"),
        (["--seed", "0,0"], "has a value twice"),
        (["--seed", "0,"], "or an empty one"),
        (["--seed", "0,x"], "'x' is not a whole number"),
        (["--corpus.train_fractoin", "0.1,0.2"], "did you mean train_fraction"),
        (["--seed", "0,1", "--fast"], "--fast: write --key value"),
        (["--seed", "0,1", "word"], "word: write --key value"),
        (["--seed", "0,1", "--jobs", "-1"], "--jobs -1: is not a number of runs"),
        (["--seed", "0,1", "--jobs", "0"], "--jobs 0: is not a number of runs"),
        (["--seed", "0,1", "--num_train_epochs", "1"], "num_train_epochs: would be ignored beside max_steps"),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(write_recipe(tmp_path)), *words, "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_runs_are_finished_resumed_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    recipe = write_recipe(tmp_path)
    words = [str(recipe), "--seed", "0,1", "--max_steps", "8", "--output_dir", str(output)]
    # One of the two was stopped half-way: it has a checkpoint at step 6 and was to go to 8.
    name = "seed=1"
    assert run_here(recipe, "--seed", "1", "--max_steps", "6", "--output_dir", str(output / name)) == 0
    capsys.readouterr()
    assert main([*words, "--jobs", "2"]) == 0
    out = capsys.readouterr().out
    assert "[2/2]" in out and "id 0." in out and str(output / "report.html") in out
    assert "resumes after step 6" in (output / f"{name}.{LOG}").read_text()
    assert [Manifest.load(output / f"seed={seed}").finished["step"] for seed in (0, 1)] == [8, 8]
    page = (output / "report.html").read_text()
    assert "2 runs over seed" in page
    # Once more, there is nothing to run.
    began = time.monotonic()
    assert main(words) == 0
    assert "2 of 2 runs are finished already" in capsys.readouterr().out
    assert time.monotonic() - began < 15


def test_folder_names_hold_what_a_path_can() -> None:
    assert folder_name({"seed": "0", "ratio": "3.6"}) == "seed=0,ratio=3.6"
    assert folder_name({"path": "a/b"}) == "path=a_b"  # as ever
    names = [folder_name({"x": value}) for value in ("a\nb", "a\tb", "$A", "%A", "a" * 300, "a" * 301, "é" * 200)]
    assert len(set(names)) == len(names)
    assert all(name.isprintable() and len(name.encode()) < 200 and not set(name) & set("/$%\\") for name in names)
    values = "'{prompt}\n{answer}','{prompt}, {answer}'"
    assert values_of(values) == ["'{prompt}\n{answer}'", "'{prompt}, {answer}'"]


def start_sweep(folder: Path) -> subprocess.Popen[bytes]:
    """A sweep of two endless runs, both of which train."""
    words = ["--seed", "0,1", "--jobs", "2", "--output_dir", str(folder / "out")]
    with open(folder / "log", "wb") as log:
        sweep = subprocess.Popen(
            [sys.executable, "-m", "pipeline.sweep", str(write_recipe(folder, ENDLESS)), *words],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    for seed in (0, 1):
        wait_for_step(folder / "out" / f"seed={seed}", 4)
    return sweep


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_runs_end_with_their_sweep_and_have_saved(number: signal.Signals, tmp_path: Path) -> None:
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux tells a process that its parent has died")
    process, out = start_sweep(tmp_path), tmp_path / "out"
    process.send_signal(number)
    assert process.wait(60) == (SAVED if number == signal.SIGTERM else -number)
    deadline = time.monotonic() + 60
    runs = [out / f"seed={seed}" for seed in (0, 1)]
    while any((run / "lock.json").exists() for run in runs):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for run in runs:
        assert len(Manifest.load(run).resumable) == 1
        assert "stopped by SIGTERM after step" in (out / f"{run.name}.{LOG}").read_text()
    if number == signal.SIGTERM:
        said = (tmp_path / "log").read_text()
        assert (
            "stopped by SIGTERM; the same command goes on with what is unfinished" in said and "Traceback" not in said
        )


@pytest.mark.slow
def test_a_run_that_was_stopped_alone_is_no_failure(tmp_path: Path) -> None:
    process, out = start_sweep(tmp_path), tmp_path / "out"
    for seed in (0, 1):
        os.kill(json.loads((out / f"seed={seed}" / "lock.json").read_text())["pid"], signal.SIGTERM)
    assert process.wait(60) == SAVED
    assert (tmp_path / "log").read_text().count("stopped and saved after") == 2


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # 61 rows are trained; what is too many for the second run only shows when its corpus is built.
    output, recipe = tmp_path / "out", write_recipe(tmp_path)
    words = [str(recipe), "--global_batch_size", "16,1000", "--max_steps", "2", "--output_dir", str(output)]
    assert main([*words, "--jobs", "2"]) == 1
    out = capsys.readouterr().out
    assert "global_batch_size=1000: FAILED" in out and "1000 is more than the" in out
    assert "global_batch_size=16: id" in out


@pytest.mark.slurm
def test_a_sweep_as_a_slurm_array(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    output, recipe = tmp_path / "out", write_recipe(tmp_path)
    words = [str(recipe), "--seed", "0,1,2", "--max_steps", "4", "--output_dir", str(output)]
    assert main([*words, "--slurm", "--no-such-option"]) == 2
    assert "no-such-option" in capsys.readouterr().err
    assert main([*words, "--slurm", "--ntasks=1", "--jobs", "2"]) == 0
    assert "submitted as job" in capsys.readouterr().out
    deadline = time.monotonic() + 400
    while not (output / "report.html").exists():
        logs = [path.read_text() for path in output.glob("slurm-*")]
        assert time.monotonic() < deadline, logs
        time.sleep(1)
    assert "3 runs over seed" in (output / "report.html").read_text()
    # What is finished is not submitted again.
    assert main([*words, "--slurm", "--ntasks=1"]) == 0
    assert "submitted" not in capsys.readouterr().out


def test_without_slurm_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("sbatch") is None
    words = [str(write_recipe(tmp_path)), "--seed", "0,1", "--output_dir", str(tmp_path / "out")]
    assert main([*words, "--slurm", ""]) == 2
    assert "there is no sbatch here" in capsys.readouterr().err


def test_small_models_have_a_core_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    small, wide, preset = (read_recipe(write_recipe(tmp_path), [word]) for word in SIZES)
    monkeypatch.setattr("pipeline.sweep.jobs.cores", lambda: 8)
    assert at_a_time(None, [small, small]) == 8
    assert at_a_time(None, [small, wide]) == at_a_time(None, [preset]) == 4
    assert at_a_time(3, [wide]) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert at_a_time(None, [small]) == 2


def test_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert gpu_names() == ["2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_names() == []


def test_mistakes_need_no_torch(tmp_path: Path) -> None:
    from tests.tiny import run_process

    code = "import sys; from pipeline.sweep.__main__ import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    result = run_process("-c", code, str(write_recipe(tmp_path, RECIPE)), "--seed", "0,x")
    assert result.stdout == "False\n" and "'x' is not" in result.stderr


def test_an_unknown_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing.yaml", "--seed", "0,1"]) == 2
    assert "nothing.yaml" in capsys.readouterr().err
    with pytest.raises(RecipeError):
        grid("nothing.yaml", ["--seed", "0,1"], None)
