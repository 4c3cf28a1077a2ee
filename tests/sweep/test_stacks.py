"""`sweep --stack`: which runs go together, what is refused, and that each is finished as one that is alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.runs.manifest import Manifest
from pipeline.runs.metrics import read_history
from pipeline.sweep.__main__ import main
from pipeline.sweep.grid import LOG, grid
from pipeline.sweep.slurm import array_file
from pipeline.sweep.stacks import layout, read_words, stacks_of
from pipeline.utils.signals import SAVED
from tests.tiny import ROOT, write_recipe
from tests.utils.test_signals import ENDLESS, wait_for_step

WORDS = ["--max_steps", "8", "--save_steps", "4"]


def sizes(folder: Path, most: int, *words: str) -> list[int]:
    points = grid(str(write_recipe(folder)), words, folder / "out")
    return [len(stack.points) for stack in stacks_of(points, most)]


def test_runs_that_share_a_model_go_together(tmp_path: Path) -> None:
    assert sizes(tmp_path, 8, "--seed", "0,1,2", "--learning_rate", "1e-3,1e-2", "--weight_decay", "0,1") == [6, 6]
    assert sizes(tmp_path, 64, "--seed", "0,1,2", "--corpus.seed", "0,1") == [6]
    assert sizes(tmp_path, 8, "--seed", "0,1", "--model.n_embd", "16,32") == [2, 2]
    # A run that no other goes together with is none of a stack.
    assert sizes(tmp_path, 2, "--seed", "0,1,2") == [2]
    points = grid(str(write_recipe(tmp_path)), ["--seed", "0,1,2,3"], tmp_path / "out")
    stacks = stacks_of(points, 3)
    assert [[point.name for point in stack.points] for stack in stacks] == [["seed=0", "seed=2"], ["seed=1", "seed=3"]]
    assert layout(stacks) == "--stack: 2 stacks, of 2, 2 runs"


def test_words_of_runs_are_read_as_they_were_written(tmp_path: Path) -> None:
    runs = [["a.yaml", "--seed=0", "--run_name=a b\nc é"], ["b.yaml"], ["c.yaml", "--x=\udcff"]]
    (tmp_path / "runs.words").write_bytes(array_file(runs))
    assert read_words(tmp_path / "runs.words") == runs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stack", "1"], "--stack 1: is not a number of runs to train as one step, 2 or more"),
        (["--stack", "4", "--slurm", ""], "--stack trains on this machine"),
        (
            ["--stack", "4", "--objective.name", "every_prefix"],
            "objective.name: every_prefix: --stack trains next_token",
        ),
        (["--stack", "4", "--optimizer", "{grokfast: {}}"], "optimizer.grokfast: --stack knows no optimizer beside"),
        (["--stack", "4", "--callbacks.clipped_rows.norm", "1"], "callbacks.clipped_rows: acts within an update"),
        (["--stack", "4", "--fast", "false"], "fast: false: transformers' own loop trains one run"),
        (["--stack", "4", "--optim", "sgd"], "optim: sgd: --stack knows adamw_torch and adamw_torch_fused"),
        (["--stack", "4", "--torch_compile", "true"], "torch_compile: True: --stack takes"),
        (["--stack", "4", "--save_strategy", "no"], "save_strategy: no: --stack takes steps alone"),
        (["--stack", "4", "--report_to", "tensorboard"], "report_to"),
        (["--stack", "4", "--per_device_train_batch_size", "4"], "--stack takes the whole batch of a run at once"),
    ],
)
def test_what_a_stack_does_not_know_is_one_line_before_anything_runs(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(write_recipe(tmp_path)), "--seed", "0,1", *words, "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_runs_that_differ_in_what_they_share_are_no_stack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        str(write_recipe(tmp_path)),
        "--model.n_embd",
        "16,32",
        "--stack",
        "2",
        "--output_dir",
        str(tmp_path / "o"),
    ]
    assert main(words) == 2
    assert (
        "--stack 2: no two runs go together, as they differ in model.n_embd; allowed: seed" in capsys.readouterr().err
    )


def test_a_sweep_in_stacks_is_finished_as_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of three runs one fails, which is not begun again by itself; the others are measured and reported."""
    output, recipe = tmp_path / "out", write_recipe(tmp_path)
    words = [str(recipe), *WORDS, "--learning_rate", "1e-3,1e-2,1e25", "--stack", "8", "--output_dir", str(output)]
    assert main([*words, "--jobs", "2"]) == 1
    out = capsys.readouterr().out
    assert "--stack: 1 stack, of 3 runs" in out and "stack-1: 2 of 3 runs trained to their end" in out
    assert "learning_rate=1e25: the loss is not finite at step" in out and "[2/2] " in out
    good, bad = (output / f"learning_rate={rate}" for rate in ("1e-2", "1e25"))
    assert Manifest.load(good).finished["step"] == 8 and Manifest.load(bad).finished is None
    last = read_history(good)[-1]
    assert last["step"] == 8 and "final_id_greedy_exact_match" in last
    assert (good / "report.html").is_file() and "2 runs over learning_rate" not in capsys.readouterr().out
    steps = [start["step"] for start in json.loads((good / "environment.json").read_text())]
    assert steps == ["stacked", "torch"]
    said = (output / f"{good.name}.{LOG}").read_text()
    assert "starts in" in said and "step 8/8" in said and "resumes after step 8" in said
    assert not (good / "lock.json").exists()
    # Once more: what is finished stays, and the one that failed, which stands alone now, is tried again by itself.
    assert main([*words, "--jobs", "2"]) == 1
    out = capsys.readouterr().out
    assert "2 of 3 runs are finished already" in out and "[3/3] learning_rate=1e25: FAILED" in out


def test_a_model_without_the_short_forward_is_refused_by_the_stack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(write_recipe(tmp_path)), "--seed", "0,1", "--model.name", "gpt2_bilinear", "--stack", "2"]
    assert main([*words, "--output_dir", str(tmp_path / "out")]) == 1
    out = capsys.readouterr().out
    assert "stack-1: FAILED" in out and "--stack: needs the fast step and the short forward" in out
    assert not (tmp_path / "out" / "seed=0" / "metrics.jsonl").exists()


def test_a_stack_that_is_stopped_saves_all_runs_and_goes_on(tmp_path: Path) -> None:
    out, recipe = tmp_path / "out", write_recipe(tmp_path, ENDLESS)
    command = [sys.executable, "-m", "pipeline.sweep", str(recipe), "--seed", "0,1", "--stack", "2", "--jobs", "2"]
    command += ["--output_dir", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(tmp_path / "log", "wb") as log:
        sweep = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    for seed in range(2):
        wait_for_step(out / f"seed={seed}", 4)
    sweep.send_signal(signal.SIGTERM)
    assert sweep.wait(60) == SAVED
    saved = [Manifest.load(out / f"seed={seed}").resumable for seed in range(2)]
    assert len({*map(tuple, saved)}) == 1 and min(saved[0]) >= 4 and len(saved[0]) == 1
    assert not any((out / f"seed={seed}" / "lock.json").exists() for seed in range(2))
    more = max(saved[0]) + 10
    shorter = [*command, f"--max_steps={more}"]
    assert subprocess.run(shorter, cwd=ROOT, env=environment, capture_output=True).returncode == 0
    for seed in range(2):
        assert Manifest.load(out / f"seed={seed}").finished["step"] == more
        assert f"resumes after step {more - 10}" in (out / f"seed={seed}.{LOG}").read_text()
