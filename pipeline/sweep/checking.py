"""What the runs of a sweep would take on this machine, each kind of them checked once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.config.recipe import flat
from pipeline.runs import forks, opening, stages
from pipeline.sweep.grid import Point
from pipeline.sweep.jobs import cores, gpu_names
from pipeline.utils.errors import ParameterError
from pipeline.utils.files import free_space
from pipeline.utils.format import size

if TYPE_CHECKING:
    from pipeline.training.checking import Checked

IGNORED = ("seed", "data_seed", "output_dir", "run_name")  # last parts of keys that change no size and no time
HEADER = ("run", "parameters", "train rows", "steps", "disk", "memory", "speed", "time")


def check(points: Sequence[Point], jobs: int) -> tuple[list[str], bool]:
    """Return what the runs would take, a line for each, and whether the disk has room; of a kind, the first is tried.

    Raises:
        RecipeError: at a mistake that shows only with corpus, model and device.
    """
    if not gpu_names():
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))  # as each of them has it in the sweep
    from pipeline.training import checking

    known: dict[str, Checked] = {}
    rows, disk, seconds = [HEADER], 0, 0.0
    waiting = [point for point in points if not point.is_finished]
    ready = [point for point in waiting if not stages.lacking(point.recipe)]
    for point in ready:
        recipe = forks.pinned(stages.on_step(point.recipe))
        opening.open_run(recipe)
        kind = _kind(recipe.resolved())
        if kind not in known:
            try:
                known[kind] = checking.check(recipe)
            except ParameterError as error:
                raise recipe.located(error) from None
        found = known[kind]
        disk, seconds = disk + found.disk, seconds + found.seconds
        sizes = (f"{found.parameters:,}", f"{found.rows:,}", f"{found.steps:,}", size(found.disk), size(found.memory))
        rows.append((point.name, *sizes, checking.rate(found.step_seconds), checking.hours(found.seconds)))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows] if ready else []
    if len(ready) < len(waiting):
        lines.append(f"{len(waiting) - len(ready)} of {len(points)} runs wait for a stage before, and are not checked")
    if len(waiting) < len(points):
        lines.append(f"{len(points) - len(waiting)} of {len(points)} runs are finished already")
    free = free_space(points[0].folder)
    fits = disk < free
    too_much = "" if fits else "; THAT IS TOO MUCH"
    at_a_time = f"{min(jobs, max(len(ready), 1))} at a time"
    lines.append(
        f"in all: {size(disk)} of {size(free)} that are free{too_much}; about "
        f"{checking.hours(seconds / min(jobs, max(len(ready), 1)))}, {at_a_time}"
    )
    return lines, fits


def _kind(resolved: dict[str, Any]) -> str:
    """What runs of the same sizes and times have in common."""
    return repr([(key, value) for key, value in flat(resolved).items() if key.rpartition(".")[2] not in IGNORED])
