"""A sweep as an array of Slurm jobs, and its report as a job after them."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.recipe import Recipe
from pipeline.runs import stages
from pipeline.sweep.grid import LOG
from pipeline.utils.errors import RecipeError
from pipeline.utils.files import write_bytes
from pipeline.utils.shipped import PACKAGE, RECIPES, SHIPPED

if TYPE_CHECKING:
    from pipeline.sweep.grid import Point


def submit(points: Sequence[Point], jobs: int, options: str, again: Sequence[str]) -> str:
    """Submits what is unfinished as one Slurm array, and the report as a job after it; returns the array's number.

    Earlier stages are jobs of their own before it. Slurm starts one job at a time of a stage, which two sweeps may both
    need: the second finds it finished. Each run is a job of recipes/launch.slurm, which saves and requeues it at its
    time limit. `options` are sbatch's, for every run; `again` is the command that reports.

    Raises:
        RecipeError: when there is no Slurm, or it refuses the job; at a mistake in a stage.
    """
    waiting = [point.recipe for point in points if not point.is_finished]
    output = points[0].folder.parent
    output.mkdir(parents=True, exist_ok=True)
    if not waiting:
        return ""
    logs = str(output.resolve()).replace("%", "%%")  # which Slurm would replace
    before: list[str] = []
    for recipes in stages.rounds(waiting):
        after, before = _after(before), []
        for stage in recipes:
            name = f"{Path(stage.source).stem}-{_digest(str(stage.output_dir.resolve()).encode())}"
            only = ["--job-name", name, f"--dependency={','.join([*after, 'singleton'])}", "--array=0"]
            only += [f"--output={logs}/slurm-{name.replace('%', '%%')}.{LOG}"]
            before.append(_submit_runs([stage], output, only, options))
    words = ["--job-name", f"{Path(waiting[0].source).stem}-sweep", f"--array=0-{len(waiting) - 1}%{jobs}"]
    words += [f"--output={logs}/slurm-%a.{LOG}", *(f"--dependency={after}" for after in _after(before))]
    number = _submit_runs(waiting, output, words, options)
    last = [f"--dependency=afterany:{number}", "--output", f"{logs}/slurm-report.{LOG}"]
    _sbatch([*last, "--wrap", shlex.join(again)], {})
    return number


def _after(numbers: Sequence[str]) -> list[str]:
    """The condition that jobs have ended, however; a run whose stage is not finished then says so."""
    return [":".join(["afterany", *numbers])] if numbers else []


def _submit_runs(recipes: Sequence[Recipe], output: Path, words: Sequence[str], options: str) -> str:
    """Submits an array of runs; returns its number.

    What they are lies in a file that no shell interprets, named by its content, since a job may read it days later.
    Where it lies is told by the environment, since commas would end a value of --export.
    """
    content = array_file([[each.source, *each.words, "--callbacks.console.style=plain"] for each in recipes])
    runs = output / f"runs-{_digest(content)}.words"
    write_bytes(runs, content)
    told = {"RUNS": str(runs.resolve()), "PYTHON": sys.executable}
    if PACKAGE.parent == SHIPPED:  # a checkout, which PYTHON need not have installed
        told["REPOSITORY"] = str(SHIPPED)
    return _sbatch([*words, "--export=ALL", *_options(options), str(RECIPES / "launch.slurm")], told)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


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
