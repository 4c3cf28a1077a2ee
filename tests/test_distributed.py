"""A batch is the same batch however it is divided: over micro-batches, or over two real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.history import read_history
from tests.tiny import COMPOSITION, ROOT, free_port, run_here, run_process, write_recipe

# Without dropout, whose random numbers depend on how the batch is divided.
TEXT = COMPOSITION.replace("dropout: 0.1", "dropout: 0.0")
WATCHED = ("loss", "grad_norm", "eval_train_loss", "eval_id_loss", "eval_ood_loss")
EXACT = ("eval_train_exact_match", "eval_id_exact_match", "eval_ood_atomic_exact_match")


def curves(run: Path, keys: tuple[str, ...]) -> list[float]:
    return [line[key] for line in read_history(run) for key in keys if key in line]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert run_here(write_recipe(folder, TEXT)) == 0
    return folder


def test_micro_batches_train_the_same(whole: Path) -> None:
    run = whole / "micro"
    words = ("--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "7")
    assert run_here(whole / "tiny.yaml", "--output_dir", str(run), *words) == 0
    # Sums in another order: float32 rounding, over 24 steps of Adam.
    assert curves(run, WATCHED) == pytest.approx(curves(whole / "run", WATCHED), rel=2e-4)
    assert curves(run, EXACT) == curves(whole / "run", EXACT)


def test_two_processes_train_the_same(whole: Path) -> None:
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())]
    run = whole / "two"
    words = [str(ROOT / "pipeline" / "run.py"), str(whole / "tiny.yaml"), "--output_dir", str(run), "--use_cpu", "true"]
    result = run_process(*launch, *words)
    assert result.returncode == 0, result.stderr
    # An accelerate that is asked wrongly starts one process and says nothing.
    assert json.loads((run / "environment.json").read_text())[0]["processes"] == 2
    assert curves(run, WATCHED) == pytest.approx(curves(whole / "run", WATCHED), rel=2e-4)
    assert curves(run, EXACT) == curves(whole / "run", EXACT)
    assert result.stdout.count("starts in") == 1  # only one of the processes speaks
