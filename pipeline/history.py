"""metrics.jsonl: what a run has logged, one JSON object a line, in the order of steps."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.files import write_text
from pipeline.reading import RecipeError

METRICS = "metrics.jsonl"


class Series(NamedTuple):
    """One logged key: the steps at which it was logged, and its values; NaN where one was not finite."""

    steps: array[int]
    values: array[float]


def read_lines(run: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run; a last line that was cut off by a crash is left out.

    Raises:
        RecipeError: at a line that is damaged, with its number.
    """
    if not (run / METRICS).exists():
        return
    with open(run / METRICS, "rb") as file:
        for number, text in enumerate(file, 1):
            if not text.endswith(b"\n"):
                return
            try:
                line = json.loads(text)
                line["step"] = int(line["step"])
            except (ValueError, TypeError, KeyError):
                raise RecipeError(
                    f"{run / METRICS}:{number}", "is damaged; delete the line to go on without it"
                ) from None
            yield line


def read_history(run: Path) -> list[dict[str, Any]]:
    """All lines of a run, as `read_lines` has them."""
    return list(read_lines(run))


def rewind_history(run: Path, step: int | None) -> list[dict[str, Any]]:
    """Cuts off what was logged after the step that a run resumes from (None: all of it); returns the rest."""
    kept = [line for line in read_history(run) if step is not None and line["step"] <= step]
    if (run / METRICS).exists():
        write_text(run / METRICS, "".join(json.dumps(line) + "\n" for line in kept))
    return kept


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
