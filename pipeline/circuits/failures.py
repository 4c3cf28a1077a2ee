"""Analyses that failed after training: a line in the folder of their tables, until they are run again and succeed."""

from __future__ import annotations

import shlex
import sys
import traceback
from pathlib import Path

from pipeline.runs.layout import CIRCUITS
from pipeline.utils.errors import MISTAKES, in_one_line
from pipeline.utils.files import REFUSALS, DiskError, write_json
from pipeline.utils.inside import exists, read_json, remove_file

FAILED = "failed.json"


def as_line(error: Exception) -> str:
    """An error on one line; where it is no mistake of the user's, with its class."""
    words = in_one_line(error)
    return words if isinstance(error, MISTAKES) else f"{type(error).__name__}: {words}"


def reminders(run: Path) -> list[str]:
    """A line for each analysis that failed when it was last run, with the command that runs it again."""
    failed = sorted(file.parent.name for file in (run / CIRCUITS).glob(f"*/{FAILED}"))
    return [f"{name} failed, and the run is finished without it; again: {again(run, name)}" for name in failed]


def again(run: Path, name: str) -> str:
    """The command that runs an analysis again."""
    return f"python -m pipeline.circuits {shlex.quote(str(run))} --analysis {name}"


def show(error: Exception) -> None:
    """Prints where an error came from, unless it is a mistake of the user's, which its line says."""
    if not isinstance(error, MISTAKES):
        traceback.print_exception(error, file=sys.stderr)


def record_failure(run: Path, name: str, error: Exception) -> None:
    """Writes down that an analysis of a run failed, and prints where.

    Raises:
        OSError: when that was the disk's doing: then the run cannot be finished.
    """
    if isinstance(error, OSError) and (isinstance(error, DiskError) or error.errno in REFUSALS):
        raise error
    show(error)
    folder = run / CIRCUITS / name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FAILED, {"error": as_line(error)})


def forget_failure(run: Path, name: str) -> None:
    """Removes what `record_failure` wrote; nothing where there is nothing."""
    if exists(run, f"{CIRCUITS}/{name}/{FAILED}"):
        remove_file(run, f"{CIRCUITS}/{name}/{FAILED}")


def read_failure(run: Path, name: str) -> str | None:
    """Why an analysis failed when it was last run; None where it did not.

    Raises:
        RecipeError: when the file that says so is damaged.
    """
    if not exists(run, f"{CIRCUITS}/{name}/{FAILED}"):
        return None
    facts = read_json(run, f"{CIRCUITS}/{name}/{FAILED}")
    return str(facts.get("error", "unknown")) if isinstance(facts, dict) else "unknown"
