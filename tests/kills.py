"""Kills a run at random instants, starts it again each time, and compares what is left with a run nobody touched.

    python -m tests.kills --times 40
    python -m tests.kills --times 40 --processes 2

Every second kill is a SIGTERM to one process, after which all must have saved and ended with status 75; the others are
SIGKILL, to one process or to all. The processes are real, and forked from one that has torch imported already, so that
the instants fall into the run and not into its imports.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from safetensors.torch import load_file

from pipeline.runs.manifest import Manifest
from pipeline.runs.metrics import read_history
from pipeline.runs.verify import verify
from pipeline.utils.signals import SAVED
from tests.tiny import RECIPE, free_port, write_recipe

# Small steps and many writes: a checkpoint every 4 steps, every second step kept.
TEXT = RECIPE.replace("every: [[10, null]]", "every: [[2, null]]")
TEXT = TEXT.replace("max_steps: 24", "max_steps: 60").replace("save_steps: 6", "save_steps: 4")
PRELOAD = [
    "pipeline.run",
    "pipeline.training.trainer",
    "pipeline.circuits.runner",
    "pipeline.report.conclusion",
    "pipeline.data.tokenizer",
    "evaluate",
    "deepspeed",
]
GRACE = 60.0  # seconds within which processes end after SIGTERM


def _work(words: list[str], environment: dict[str, str], log: Path) -> None:
    """A process of a run, as torchrun would start it."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    from pipeline.run import main

    status = main(words)
    sys.stdout.flush()
    os._exit(status)


def launcher_environment(config: Path, processes: int) -> dict[str, str]:
    """What `accelerate launch --config_file CONFIG` tells its processes."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    words = ["--config_file", str(config), "--num_processes", str(processes), "--main_process_port", str(free_port())]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args([*words, "run.py"]))
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        told = prepare_deepspeed_cmd_env(args)[1]
    else:
        told = prepare_multi_gpu_env(args)
    return {name: value for name, value in told.items() if os.environ.get(name) != value}


@dataclass
class Runner:
    """Starts a recipe on a number of processes."""

    recipe: Path
    processes: int = 1
    words: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    config: Path | None = None  # of accelerate
    _context: multiprocessing.context.ForkServerContext = field(init=False)

    def __post_init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)

    def start(self, folder: Path) -> list[ForkServerProcess]:
        words = [str(self.recipe), "--output_dir", str(folder), *self.words]
        shared: dict[str, str] = {}
        if self.processes > 1 or self.config:
            words += ["--use_cpu", "true"]
            shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(self.processes)}
        if self.config:
            shared |= launcher_environment(self.config, self.processes)
        started = []
        for rank in range(self.processes):
            environment = {**self.environment, **shared}
            if shared:
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            log = folder.with_name(f"{folder.name}.log")
            process = self._context.Process(target=_work, args=(words, environment, log))
            process.start()
            started.append(process)
        return started

    def run(self, folder: Path) -> float:
        """A run to its end; returns its seconds."""
        began = time.monotonic()
        statuses = join(self.start(folder))
        log = folder.with_name(f"{folder.name}.log").read_text()
        assert statuses == [0] * self.processes, f"{statuses}\n{log[-3000:]}"
        return time.monotonic() - began


def join(processes: list[ForkServerProcess], seconds: float = 300) -> list[int | None]:
    """Waits for processes as a launcher does: when one fails, the others are ended. Returns their statuses."""
    deadline = time.monotonic() + seconds
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        if any(process.exitcode not in (None, 0, SAVED) for process in processes):
            for process in processes:
                process.kill()
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def differences(run: Path, straight: Path, end: int | None = None) -> list[str]:
    """What a run that was killed has otherwise than one that was not.

    `end` is the run's last step where it is longer than the straight one, to whose last step it is then compared.
    """
    found = [f"{path}: {damage}" for path, damage in verify(run) if damage]
    found += [f"{path} is left" for path in run.rglob("*") if ".draft" in path.name or path.name == "lock.json"]
    ours, theirs = Manifest.load(run), Manifest.load(straight)
    last = max(theirs.resumable)
    # The one before the last may be of the step in which a SIGTERM came.
    if {step for step in ours.kept if step <= last} != set(theirs.kept) or max(ours.resumable) != (end or last):
        found.append(f"other steps: {sorted(ours.kept)}, {sorted(ours.resumable)}")
    for entry in theirs.kept.values():
        one, other = (load_file(folder / entry.path / "model.safetensors") for folder in (run, straight))
        if one.keys() != other.keys() or not all(one[key].equal(other[key]) for key in one):
            found.append(f"{entry.path} has other weights")
    curves = [
        [
            (line["step"], line.get("loss"), line.get("eval_id_loss"))
            for line in read_history(folder)
            if {"loss", "eval_id_loss"} & line.keys() and line["step"] <= last
        ]
        for folder in (run, straight)
    ]
    # A run that was stopped after a step has not evaluated it for that; what it measured is the same.
    return found + ([] if curves[0] == curves[1] else ["other losses were logged"])


def kill_many(folder: Path, times: int, seed: int = 0, processes: int = 1, tell: bool = False) -> dict[str, int]:
    """Kills runs this many times. Returns how many were killed, ended after SIGTERM, and compared.

    Raises:
        AssertionError: when a run differs from the straight one, or a status says something else than what happened.
    """
    draws = random.Random(seed)
    runner = Runner(write_recipe(folder, TEXT), processes)
    straight = folder / "straight"
    runner.run(straight)  # fills the cache of corpora
    seconds = runner.run(folder / "timed")
    assert not differences(folder / "timed", straight)
    counts = {"killed": 0, "saved": 0, "compared": 0}
    while counts["killed"] + counts["saved"] < times or counts["compared"] == 0:
        run = folder / f"run{counts['compared']}"
        path = run.with_name(f"{run.name}.log")
        said = len(path.read_text()) if path.exists() else 0
        started = runner.start(run)
        is_last = counts["killed"] + counts["saved"] >= times
        if not is_last:
            time.sleep(draws.uniform(0, seconds))
            is_soft = (counts["killed"] + counts["saved"]) % 2 == 1
            chosen = [draws.choice(started)] if is_soft or draws.random() < 0.5 else started
            was_hit = any(process.is_alive() for process in chosen)
            for process in chosen:
                if process.is_alive():
                    os.kill(process.pid or 0, signal.SIGTERM if is_soft else signal.SIGKILL)
        statuses = join(started, GRACE if not is_last else 300)
        log = path.read_text() if path.exists() else ""
        if statuses == [0] * processes:
            found = differences(run, straight)
            assert not found, "\n".join(found)
            counts["compared"] += 1
            continue
        assert not is_last and was_hit, f"{statuses}\n{log[-3000:]}"
        if is_soft:
            if "ending this step" in log[said:]:
                assert statuses == [SAVED] * processes, statuses
            else:
                # Before Python listens the system's own answer to SIGTERM stands; before training begins there is
                # nothing to agree on, and a process whose partner has gone fails.
                assert set(statuses) <= {SAVED, 0, 1, -signal.SIGTERM, -signal.SIGKILL}, statuses
            counts["saved"] += 1
        else:
            counts["killed"] += 1
        if tell:
            step = max(Manifest.load(run).resumable, default=None) if run.exists() else None
            print(f"{'SIGTERM' if is_soft else 'SIGKILL'} -> {statuses}; last checkpoint {step}", flush=True)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=int, default=40)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="groklab-kills-") as folder:
        print(kill_many(Path(folder), chosen.times, chosen.seed, chosen.processes, tell=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
