"""Values of curves, for a reader who points at them in a page that needs no network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from pipeline.plots.axes import StepScale
from pipeline.runs.metrics import Series

Box = tuple[float, float, float, float]
MOST = 500  # steps; of more, as many are spread over the axis


@dataclass(frozen=True)
class CurveValues:
    """Steps with their places, and the values of each curve there.

    `boxes` are left, top, width and height of the axes, in the points of the drawing, and of that for a narrow page.
    `places` are from 0 to 1.
    """

    boxes: Sequence[Box]
    steps: Sequence[int]
    places: Sequence[float]
    curves: Mapping[str, Sequence[float | None]]

    @classmethod
    def of(cls, figures: Sequence[Figure], scale: StepScale, curves: Mapping[str, Series]) -> CurveValues | None:
        """Of a figure whose axes lie above each other, and of the narrow one; None where nothing is to point at."""
        steps = sorted({step for series in curves.values() for step in series.steps if step <= scale.last})
        if not steps:
            return None
        places = [float(place) for place in scale.position(steps)]
        if len(steps) > MOST:
            kept = {int(place * MOST): i for i, place in enumerate(places)}.values()
            steps, places = [steps[i] for i in kept], [places[i] for i in kept]
        found = {}
        for name, series in curves.items():
            at = dict(zip(series.steps, series.values))
            found[name] = [_number(at.get(step)) for step in steps]
        return cls([_box(figure) for figure in figures], steps, places, found)

    def as_json(self) -> str:
        """As a script of a page holds it."""
        facts = {
            "boxes": [[round(length, 1) for length in box] for box in self.boxes],
            "steps": self.steps,
            "places": [round(place, 4) for place in self.places],
            "curves": self.curves,
        }
        return json.dumps(facts, separators=(",", ":")).replace("<", "\\u003c")


def _box(figure: Figure) -> Box:
    width, height = (72 * float(length) for length in figure.get_size_inches())
    places = [axes.get_position() for axes in figure.axes]
    left, right = places[0].x0 * width, places[0].x1 * width
    top, bottom = (1 - max(box.y1 for box in places)) * height, (1 - min(box.y0 for box in places)) * height
    return left, top, right - left, bottom - top


def _number(value: float | None) -> float | None:
    """A value with four digits; nothing where it is not finite, which JSON does not have."""
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None
