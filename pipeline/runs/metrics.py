"""metrics.jsonl: what a run has logged, one JSON object a line, in the order of steps."""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.utils.errors import RecipeError
from pipeline.utils.files import LONGEST_LINE, lines_backwards
from pipeline.utils.inside import exists, open_file

METRICS = "metrics.jsonl"
LAST_STEP = 10**15  # beyond any run; a larger one is damage


class Series(NamedTuple):
    """One logged key: the steps at which it was logged, and its values; NaN where one was not finite."""

    steps: array[int]
    values: array[float]


def read_lines(run: Path, about: str = "") -> Iterator[dict[str, Any]]:
    """Yield the lines of a run, or those that mention a word; a last line that was cut off by a crash is left out.

    Raises:
        RecipeError: at a line that is damaged, with its number.
    """
    if not exists(run, METRICS):
        return
    word = about.encode()
    with open(open_file(run, METRICS), "rb") as file:
        for number, text in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
            is_long = len(text) == LONGEST_LINE
            if not text.endswith(b"\n") and not is_long:
                return
            if word not in text:
                continue
            line = None if is_long else _parsed(text)
            if line is None:
                raise RecipeError(f"{run / METRICS}:{number}", "is damaged; delete the line to go on without it")
            yield line


def _parsed(text: bytes) -> dict[str, Any] | None:
    """Return a line as an object with a step, or None where it is none."""
    try:
        line: dict[str, Any] = json.loads(text)
        line["step"] = int(line["step"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return line if 0 <= line["step"] < LAST_STEP and all(map(_is_number, line.items())) else None


def _is_number(item: tuple[str, Any]) -> bool:
    """Return whether a value that is computed with is a number, or null where it was not finite."""
    key, value = item
    if not key.endswith(("_exact_match", "_loss", "seconds")):
        return True
    return value is None or type(value) is float or (type(value) is int and abs(value) < LAST_STEP)


def read_history(run: Path) -> list[dict[str, Any]]:
    """Return all lines of a run, as `read_lines` has them."""
    return list(read_lines(run))


def last_line(run: Path) -> dict[str, Any] | None:
    """Return the last whole line of a run, without reading those before it; None where there is none."""
    if exists(run, METRICS):
        with open(open_file(run, METRICS), "rb") as file, _located(run):
            for _, text in lines_backwards(file):
                if text.endswith(b"\n"):
                    return _parsed(text)
    return None


def rewind_history(run: Path, step: int | None) -> None:
    """Cuts off what was logged after the step that a run resumes from (None: all of it), and a line that is torn.

    Reads no more than it cuts off, since a long run has millions of lines.

    Raises:
        RecipeError: at a line that is damaged, with its number.
    """
    if not exists(run, METRICS):
        return
    with open(open_file(run, METRICS, os.O_RDWR), "r+b", buffering=0) as file, _located(run):
        size = end = file.seek(0, os.SEEK_END)
        for offset, text in lines_backwards(file):
            if text.endswith(b"\n"):
                line = _parsed(text)
                if line is None:
                    read_history(run)  # which names it
                elif step is not None and line["step"] <= step:
                    break
            end = offset
        if end < size:
            file.truncate(end)
            os.fsync(file.fileno())


@contextmanager
def _located(run: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise RecipeError(str(run / METRICS), f"is damaged: {error}") from None


def read_series(run: Path) -> dict[str, Series]:
    """Return every logged number by its key, in 16 bytes a value, so that millions of lines fit into memory.

    A key logged twice at a step has the later value.
    """
    found: dict[str, Series] = {}
    for line in read_lines(run):
        step = line["step"]
        for key, value in line.items():
            if not (value is None or isinstance(value, (int, float))):
                continue
            series = found.get(key)
            if series is None:
                series = found[key] = Series(array("q"), array("d"))
            try:
                number = math.nan if value is None else float(value)
            except OverflowError:  # an integer of hundreds of digits
                raise RecipeError(
                    str(run / METRICS), f"is damaged: {key} at step {step} is beyond all numbers"
                ) from None
            if series.steps and series.steps[-1] == step:
                series.values[-1] = number
            else:
                series.steps.append(step)
                series.values.append(number)
    return found
