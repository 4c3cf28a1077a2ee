"""A batch is the same batch however it is divided: over micro-batches, or over two real processes."""

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
from pipeline.utils.signals import SAVED
from tests.tiny import COMPOSITION, ROOT, free_port, run_here, run_process, write_recipe
from tests.utils.test_signals import ENDLESS, wait_for_step

LAUNCH = ["-m", "accelerate.commands.launch"]
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


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_to_the_launcher_saves_on_all_processes(number: signal.Signals, tmp_path: Path) -> None:
    recipe, run, status = write_recipe(tmp_path, ENDLESS), tmp_path / "run", tmp_path / "status"
    command = [*LAUNCH, "--config_file", str(ROOT / "accelerate_configs" / "cpu.yaml")]
    command += ["--main_process_port", str(free_port()), str(ROOT / "pipeline" / "run.py"), str(recipe)]
    with open(tmp_path / "log", "wb") as log:
        launcher = subprocess.Popen(
            [sys.executable, *command, "--output_dir", str(run), "--use_cpu", "true"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "GROKLAB_STATUS": str(status)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        wait_for_step(run, 10)
        # Ctrl-C reaches everyone at once, and the launcher passes it on: two signals in a moment are one request.
        os.killpg(launcher.pid, number) if number == signal.SIGINT else launcher.send_signal(number)
        assert launcher.wait(60) != 0
    said = (tmp_path / "log").read_text()
    assert status.read_text() == f"{SAVED}\n", said
    assert f"stopped by {number.name} after step" in said
    manifest = Manifest.load(run)
    (step,) = manifest.resumable
    assert manifest.resumable[step].damage(run) is None
    assert json.loads((run / "environment.json").read_text())[0]["processes"] == 2


def test_two_processes_train_the_same(whole: Path) -> None:
    launch = [*LAUNCH, "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
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
