"""A signal ends the step, saves and says so; several processes end on the same step."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from pipeline.runs.manifest import Manifest
from pipeline.runs.metrics import read_history
from pipeline.utils.signals import REQUEST, SAVED, Agreement, Request, Stopped, stop_signals
from tests.kills import Runner, join
from tests.tiny import RECIPE, write_recipe

ENDLESS = RECIPE.replace("max_steps: 24", "max_steps: 1000000").replace("save_steps: 6", "save_steps: 1000000")


def wait_for_step(folder: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while not any(line["step"] >= step for line in read_history(folder)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_the_step_saves_and_says_so(number: signal.Signals, tmp_path: Path) -> None:
    status = tmp_path / "status"
    runner = Runner(write_recipe(tmp_path, ENDLESS), environment={"GROKLAB_STATUS": str(status)})
    (process,) = runner.start(tmp_path / "run")
    wait_for_step(tmp_path / "run", 12)
    os.kill(process.pid or 0, number)
    assert join([process], 60) == [SAVED]
    assert status.read_text() == f"{SAVED}\n"
    manifest = Manifest.load(tmp_path / "run")
    (step,) = manifest.resumable
    assert step >= 12 and manifest.resumable[step].damage(tmp_path / "run") is None
    assert manifest.finished is None and not (tmp_path / "run" / "lock.json").exists()
    said = (tmp_path / "run.log").read_text()
    assert f"{number.name}: ending this step and saving" in said
    assert f"stopped by {number.name} after step {step}, saved in {tmp_path / 'run'}; the same command goes on" in said


def test_the_first_signal_is_noted_and_the_second_ends_the_process_at_once() -> None:
    with stop_signals():
        REQUEST.in_training = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert REQUEST.name == "SIGTERM"
        os.kill(os.getpid(), signal.SIGTERM)  # as a launcher passes on what the terminal has sent to everyone
        time.sleep(1.05)
        with pytest.raises(Stopped) as caught:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert caught.value.status == 128 + signal.SIGINT


def test_a_signal_before_training_ends_it_with_nothing_to_save() -> None:
    with stop_signals(), pytest.raises(Stopped) as caught:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(1)
    assert caught.value.status == SAVED and caught.value.name == "SIGUSR1"
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


@pytest.mark.parametrize("seed", range(8))
def test_processes_end_on_the_same_step(seed: int) -> None:
    """Threads in the place of processes, in lockstep as collectives hold them, some told at random instants."""
    draws = random.Random(seed)
    ranks, most = draws.choice([2, 3, 8]), 4000
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    stores = [server, *(dist.TCPStore("127.0.0.1", server.port, is_master=False) for _ in range(ranks - 1))]
    requests = [Request() for _ in range(ranks)]
    agreements = [Agreement(rank, ranks, stores[rank], requests[rank]) for rank in range(ranks)]
    collective, ended = threading.Barrier(ranks), [0] * ranks

    def train(rank: int) -> None:
        pause = random.Random(f"{seed} {rank}")
        agreements[rank].begin(0)
        for step in range(1, most + 1):
            collective.wait(30)
            time.sleep(pause.random() * 1e-3)
            if agreements[rank].ends(step):
                ended[rank] = step
                break

    threads = [threading.Thread(target=train, args=(rank,), daemon=True) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    time.sleep(draws.random() * 0.5)
    for rank in draws.sample(range(ranks), draws.randint(1, ranks)):
        requests[rank].number = signal.SIGTERM
        time.sleep(draws.random() * 0.1)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    for agreement in agreements:
        agreement.close()
    assert len(set(ended)) == 1 and 0 < ended[0] < most
    assert agreements[0].reason == "SIGTERM"


@pytest.mark.parametrize("asks", [0, 1])
def test_a_signal_at_the_very_end_waits_for_nobody_who_listens_no_longer(asks: int) -> None:
    store, request = dist.HashStore(), Request()
    request.number = signal.SIGTERM
    agreement = Agreement(asks, 2, store, request)
    agreement.begin(59)
    store.wait([f"step {asks}"])
    closing = threading.Thread(target=agreement.close, daemon=True)
    closing.start()
    closing.join(10)
    assert not closing.is_alive() and agreement.reason is None
