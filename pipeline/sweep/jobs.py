"""Runs of a sweep on this machine: several at a time, each a process on its share of the cores or a GPU of its own."""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from pipeline.circuits.failures import reminders
from pipeline.config.recipe import Recipe
from pipeline.runs import stages
from pipeline.sweep.grid import Point
from pipeline.utils.children import end_children, environment_of_child
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.files import append
from pipeline.utils.format import duration
from pipeline.utils.log import log
from pipeline.utils.signals import SAVED, Stopped

P = ParamSpec("P")
SMALL = 256  # width of a model for which a run has one thread
USUAL = f"one for each GPU, or for each core; for two cores where a model is wider than {SMALL}"


def run_all(points: Sequence[Point], jobs: int) -> int:
    """Runs what is unfinished, `jobs` at a time, with a line for each that ends; first the stages that they go on from.

    Returns:
        The exit status: 0 all are finished, 1 one has failed, 75 one was stopped and has saved.

    Raises:
        RecipeError: at a mistake in a stage, before anything is trained.
    """
    statuses = run_stages(points, jobs)
    if SAVED not in statuses:
        statuses.add(run_points(points, jobs))
    return in_all(statuses)


def run_stages(points: Sequence[Point], jobs: int) -> set[int]:
    """Runs the stages that points go on from, until one is stopped; returns their exit statuses.

    Raises:
        RecipeError: at a mistake in a stage, before anything is trained.
    """
    statuses = set[int]()
    for recipes in stages.rounds(point.recipe for point in points):
        statuses.add(run_points([Point(recipe.output_dir.name, recipe, waits=True) for recipe in recipes], jobs))
        if SAVED in statuses:
            break
    return statuses


def in_all(statuses: Iterable[int]) -> int:
    """The exit status of what ended with these: 1 where something failed, 75 where it was stopped and saved, else 0."""
    found = {*statuses}
    return 1 if found - {0, SAVED} else SAVED if SAVED in found else 0


def run_points(points: Sequence[Point], jobs: int) -> int:
    """Runs those of the points that are unfinished and whose stages are finished; returns the exit status."""
    waiting = [point for point in points if not point.is_finished]
    done, statuses = len(points) - len(waiting), set[int]()
    if done:
        log.info(f"{done} of {len(points)} runs are finished already")
    for point in list(waiting):
        if stage := stages.lacking(point.recipe):
            log.warning(f"{point.name} was not begun: {stage.source} has failed, in {stage.output_dir}")
            waiting.remove(point)
            statuses.add(1)

    def command(point: Point) -> list[str]:
        return ["pipeline.run", *point.command, "--callbacks.console.style=plain"]

    with closing(side_by_side(waiting, jobs, command)) as ended:
        for number, point in enumerate(ended, done + 1):
            assert point.process is not None
            statuses.add(point.process.returncode)
            for line in f"[{number}/{len(points)}] {point.name}: {_ending(point)}".splitlines():
                log.info(line)
    return in_all(statuses)


class Job(Protocol):
    """What has a process of its own."""

    waits: bool
    process: subprocess.Popen[bytes] | None
    started: float

    @property
    def log(self) -> Path: ...


AnyJob = TypeVar("AnyJob", bound=Job)


def side_by_side(
    waiting: Sequence[AnyJob], jobs: int, command: Callable[[AnyJob], Sequence[str]]
) -> Generator[AnyJob, None, None]:
    """Runs modules of this package, `jobs` at a time, in the order given; gives each as it has ended.

    To be closed, which ends those that run.

    Args:
        waiting: What is to be run.
        jobs: How many at a time.
        command: The module and the words of each.
    """
    queue, running, slots = list(waiting), dict[int, AnyJob](), list(range(jobs))
    try:
        while queue or running:
            while queue and slots:
                job, slot = queue.pop(0), slots.pop(0)
                _start(job, slot, jobs, command(job))
                running[slot] = job
            time.sleep(0.1)
            for slot, job in list(running.items()):
                if job.process and job.process.poll() is not None:
                    slots.append(slot)
                    yield running.pop(slot)
    finally:
        end_children([job.process for job in running.values() if job.process])


def _ending(point: Point) -> str:
    """How the run of a point ended, in a line, and where its log is where it failed."""
    assert point.process is not None
    took = duration(time.monotonic() - point.started)
    if point.process.returncode == SAVED:
        return f"stopped and saved after {took}; the same command goes on with it"
    if point.process.returncode == 1 and point.is_finished and (lines := reminders(point.recipe.output_dir)):
        return "\n  ".join([f"{point.outcome()}, {took}", *lines])
    return failure(point) if point.process.returncode else f"{point.outcome()}, {took}"


def failure(job: Job) -> str:
    """How a job failed: after how long, the last line that it wrote, and where its log is."""
    took = duration(time.monotonic() - job.started)
    return f"FAILED after {took}: {_last_line(job.log)}\n  its log is {job.log}"


def _start(job: Job, slot: int, jobs: int, words: Sequence[str]) -> None:
    """Starts a job on its share of the machine: one of the GPUs, or some of the cores."""
    environment = environment_of_child(job.waits)
    gpus = gpu_names()
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))
    job.log.parent.mkdir(parents=True, exist_ok=True)
    # Unbuffered, so that the last line of the log is the last one it wrote, whichever stream it went to.
    command = [sys.executable, "-u", "-m", *words]
    with open(job.log, "ab", buffering=0) as file:
        append(file, f"$ {shlex.join(command)}\n".encode(errors="surrogateescape"))  # which a full disk refuses
        job.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    job.started = time.monotonic()


def _last_line(path: Path) -> str:
    lines = [
        line
        for line in path.read_text(errors="replace", encoding="utf-8").splitlines()
        if line.strip() and line[:2] != "$ "
    ]
    return lines[-1] if lines else "it said nothing"


def at_a_time(jobs: int | None, recipes: Iterable[Recipe]) -> int:
    """How many runs go at a time: as many as are asked for, or one for each GPU.

    Without a GPU, one for each core where all models are small, since a second thread does less for one of them than a
    second run; else one for two cores.

    Raises:
        RecipeError: when that is none.
    """
    if jobs is not None and jobs < 1:
        raise RecipeError("command line", f"--jobs {jobs}: is not a number of runs at a time, 1 or more")
    widths = [getattr(recipe.model, "n_embd", None) for recipe in recipes]
    are_small = all(width is not None and width <= SMALL for width in widths)
    return jobs or len(gpu_names()) or (cores() if are_small else max(1, cores() // 2))


def resumable(main: Callable[P, int]) -> Callable[P, int]:
    """Lets a command that starts runs say a mistake in a line, and that it was stopped; returns 2, or as a run does."""

    @functools.wraps(main)
    def command(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except (RecipeError, ParameterError) as error:
            log.error(error)
            return 2
        except Stopped as stop:
            log.error(f"stopped by {stop.name}; the same command goes on with what is unfinished")
            return stop.status

    return command


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_names() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; found without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
