"""A sweep as an array of Slurm jobs, and its report as a job after them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.sweep.grid import LOG
from pipeline.utils.errors import RecipeError
from pipeline.utils.files import write_bytes
from pipeline.utils.shipped import PACKAGE, RECIPES, SHIPPED

if TYPE_CHECKING:
    from pipeline.sweep.grid import Point


def submit(points: Sequence[Point], path: str, jobs: int, options: str, again: Sequence[str]) -> str:
    """Submits what is unfinished as one Slurm array, and the report as a job after it; returns the array's number.

    Each run is a job of recipes/launch.slurm, which saves and requeues it at its time limit. `options` are sbatch's,
    for every run; `again` is the command that reports. The words of the runs lie in a file that no shell interprets,
    and where it lies is told by the environment, since commas would end a value of --export.

    Raises:
        RecipeError: when there is no Slurm, or it refuses the job.
    """
    waiting = [point for point in points if not point.is_finished]
    output = points[0].folder.parent
    output.mkdir(parents=True, exist_ok=True)
    if not waiting:
        return ""
    runs = output / "runs.words"
    write_bytes(runs, array_file([[path, *point.words, "--callbacks.console.style=plain"] for point in waiting]))
    told = {"RUNS": str(runs.resolve()), "PYTHON": sys.executable}
    if PACKAGE.parent == SHIPPED:  # a checkout, which PYTHON need not have installed
        told["REPOSITORY"] = str(SHIPPED)
    logs = str(output.resolve()).replace("%", "%%")  # which Slurm would replace
    number = _sbatch(
        [
            *("--job-name", f"{Path(path).stem}-sweep", f"--array=0-{len(waiting) - 1}%{jobs}"),
            *(f"--output={logs}/slurm-%a.{LOG}", "--export=ALL"),
            *(*_options(options), str(RECIPES / "launch.slurm")),
        ],
        told,
    )
    last = ["--dependency", f"afterany:{number}", "--output", f"{logs}/slurm-report.{LOG}"]
    _sbatch([*last, "--wrap", shlex.join(again)], {})
    return number


def array_file(runs: Sequence[Sequence[str]]) -> bytes:
    """The words of runs for recipes/launch.slurm: each ends with a zero byte, and each run with an empty word."""
    return b"".join(b"".join(word.encode(errors="surrogateescape") + b"\0" for word in run) + b"\0" for run in runs)


def _options(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise RecipeError("--slurm", f"{text!r} is not a list of options: {error}") from None


def _sbatch(words: Sequence[str], told: dict[str, Any]) -> str:
    command, environment = ["sbatch", "--parsable", *words], {**os.environ, **told}
    try:
        result = subprocess.run(command, capture_output=True, check=True, encoding="utf-8", env=environment)
    except FileNotFoundError:
        raise RecipeError("--slurm", "there is no sbatch here; leave --slurm out to run on this machine") from None
    except subprocess.CalledProcessError as error:
        raise RecipeError("--slurm", " ".join(error.stderr.split())) from None
    return result.stdout.strip().partition(";")[0]
