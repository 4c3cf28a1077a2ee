"""metrics.jsonl: what a run has logged, one JSON object a line, in the order of steps."""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.files import lines_backwards, sync
from pipeline.reading import RecipeError

METRICS = "metrics.jsonl"


class Series(NamedTuple):
    """One logged key: the steps at which it was logged, and its values; NaN where one was not finite."""

    steps: array[int]
    values: array[float]


def read_lines(run: Path, about: str = "") -> Iterator[dict[str, Any]]:
    """The lines of a run, or those that mention a word; a last line that was cut off by a crash is left out.

    Raises:
        RecipeError: at a line that is damaged, with its number.
    """
    if not (run / METRICS).exists():
        return
    word = about.encode()
    with open(run / METRICS, "rb") as file:
        for number, text in enumerate(file, 1):
            if not text.endswith(b"\n"):
                return
            if word not in text:
                continue
            line = _parsed(text)
            if line is None:
                raise RecipeError(f"{run / METRICS}:{number}", "is damaged; delete the line to go on without it")
            yield line


def _parsed(text: bytes) -> dict[str, Any] | None:
    """A line as an object with a step, or None where it is none."""
    try:
        line: dict[str, Any] = json.loads(text)
        line["step"] = int(line["step"])
    except (ValueError, TypeError, KeyError):
        return None
    return line


def read_history(run: Path) -> list[dict[str, Any]]:
    """All lines of a run, as `read_lines` has them."""
    return list(read_lines(run))


def last_line(run: Path) -> dict[str, Any] | None:
    """The last whole line of a run, without reading those before it; None where there is none."""
    if (run / METRICS).exists():
        for _, text in lines_backwards(run / METRICS):
            if text.endswith(b"\n"):
                return _parsed(text)
    return None


def rewind_history(run: Path, step: int | None) -> None:
    """Cuts off what was logged after the step that a run resumes from (None: all of it), and a line that is torn.

    Reads no more than it cuts off, since a long run has millions of lines.

    Raises:
        RecipeError: at a line that is damaged, with its number.
    """
    path = run / METRICS
    if not path.exists():
        return
    end = path.stat().st_size
    for offset, text in lines_backwards(path):
        if text.endswith(b"\n"):
            line = _parsed(text)
            if line is None:
                read_history(run)  # which names it
            elif step is not None and line["step"] <= step:
                break
        end = offset
    if end < path.stat().st_size:
        os.truncate(path, end)
        sync(path)


def read_series(run: Path) -> dict[str, Series]:
    """Every logged number by its key, in 16 bytes a value, so that millions of lines fit into memory.

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
            number = math.nan if value is None else value
            if series.steps and series.steps[-1] == step:
                series.values[-1] = number
            else:
                series.steps.append(step)
                series.values.append(number)
    return found
