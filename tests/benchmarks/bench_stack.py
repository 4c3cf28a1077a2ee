"""Runs trained as one step (`sweep --stack`) beside one run alone: seconds for an update of one run.

    python tests/benchmarks/bench_stack.py [--runs 1,8,64,256] [--small]

Runs are quickstarts of several seeds, with their trainers, logs, and an evaluation every 25 steps; nothing is kept or
saved. The first half of the steps warms up: kernels are chosen, and a GPU's graph is recorded. CPU seconds of one
thread, or wall-clock seconds on a GPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from baselines import ROOT  # sets the path
from machine import device, note, write

from transformers import TrainerCallback  # isort: skip

from pipeline.config.recipe import read_recipe
from pipeline.training import loop
from pipeline.training.session import prepare
from pipeline.training.stack import Member, Stack

ON_GPU, ON_CPU = (1, 8, 64, 256), (1, 4, 16)
CALM = ["--stop_when=never", "--checkpoints.powers_of_two=false", "--checkpoints.every=[]", "--circuits={}"]
CALM += ["--callbacks.console.style=off", "--save_steps=1000000", "--logging_steps=25"]
LITTLE = ["--model.n_embd=16", "--model.n_head=2", "--global_batch_size=16"]


def now() -> float:
    """Seconds, with the device's work done: of this process's CPU time, or on a GPU of the clock on the wall."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


class Clock(TrainerCallback):
    """Notes when a step of a run has ended."""

    def __init__(self, step: int):
        self.step, self.began, self.ended = step, 0.0, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.began = now()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ended = now()


class Timed(Stack):
    """A stack that notes when half of the updates were made."""

    def __init__(self, members: Sequence[Member], half: int):
        super().__init__(members)
        self.half, self.began, self.before = half, 0.0, 0

    def _update(self, live: Sequence[Member]) -> None:
        if not self.before and self.updates >= self.half:
            self.began, self.before = now(), self.updates
        super()._update(live)


def trainer_of(seed: int, steps: int, words: Sequence[str], folder: Path, is_stacked: bool = False) -> Any:
    overrides = [*CALM, *words, f"--max_steps={steps}", f"--seed={seed}", f"--output_dir={folder / str(seed)}"]
    return prepare(read_recipe(ROOT / "recipes" / "quickstart.yaml", overrides), is_stacked)


def alone(steps: int, words: Sequence[str]) -> float:
    """Seconds for an update of a run that is alone, as in a long training: on a CPU compiled."""
    loop.PAYS = 0.0
    with tempfile.TemporaryDirectory() as folder:
        trainer, clock = trainer_of(0, steps, words, Path(folder)), Clock(steps // 2)
        trainer.add_callback(clock)
        trainer.train()
        return (clock.ended - clock.began) / (steps - steps // 2)


def stacked(runs: int, steps: int, words: Sequence[str]) -> dict[str, Any]:
    """Seconds for an update of each of so many runs, in a stack, and for making its trainer."""
    with tempfile.TemporaryDirectory() as folder:
        began = now()
        members = [Member(trainer_of(seed, steps, words, Path(folder), is_stacked=True)) for seed in range(runs)]
        made = (now() - began) / runs
        stack = Timed(members, runs * (steps // 2))
        stack.run()
        ended = now()
        if errors := [member.error for member in members if member.error is not None]:
            raise errors[0]
    seconds = (ended - stack.began) / (stack.updates - stack.before)
    return {"runs": runs, "steps": steps, "seconds_per_update": seconds, "seconds_for_a_trainer": made}


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs as one step beside one alone.")
    parser.add_argument("--runs", help="how many in a stack, with commas")
    parser.add_argument("--small", action="store_true", help="to see that it works")
    chosen = parser.parse_args()
    on_gpu = device().type == "cuda"
    sizes = (
        [int(part) for part in chosen.runs.split(",")]
        if chosen.runs
        else (1, 2)
        if chosen.small
        else ON_GPU
        if on_gpu
        else ON_CPU
    )
    steps, words = (60, LITTLE) if chosen.small else (400 if on_gpu else 40, [])
    found = []
    for runs in sizes:
        one = alone(steps, words)  # each time anew, as other work may come to a shared machine
        found.append({**stacked(runs, steps, words), "alone": one})
        each = found[-1]["seconds_per_update"]
        beside = f"alone {1e3 * one:.3f}, {one / each:.2f} times"
        print(f"{runs:>4} runs as one step: {1e3 * each:.3f} ms for an update of one; {beside}")
        note(f"{runs} runs as one step", each, "a run alone", one, "s")
    print(write("stack", found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
