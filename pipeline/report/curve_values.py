"""Values of curves, for a reader who points at them in a page that needs no network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from pipeline.plots.axes import StepScale
from pipeline.runs.metrics import Series

MOST = 500  # steps; of more, as many are spread over the axis


@dataclass(frozen=True)
class CurveValues:
    """Steps with their places, and the values of each curve there; lengths in the points of the drawing.

    `view` is the size of the drawing, `box` left, top, width and height of its axes; `places` are from 0 to 1.
    """

    view: tuple[float, float]
    box: tuple[float, float, float, float]
    steps: Sequence[int]
    places: Sequence[float]
    curves: Mapping[str, Sequence[float | None]]

    @classmethod
    def of(cls, figure: Figure, scale: StepScale, curves: Mapping[str, Series]) -> CurveValues | None:
        """Of a figure whose axes lie above each other; None where there is nothing to point at."""
        steps = sorted({step for series in curves.values() for step in series.steps if step <= scale.last})
        if not steps:
            return None
        places = [float(place) for place in scale.position(steps)]
        if len(steps) > MOST:
            kept = {int(place * MOST): i for i, place in enumerate(places)}.values()
            steps, places = [steps[i] for i in kept], [places[i] for i in kept]
        width, height = (72 * float(length) for length in figure.get_size_inches())
        boxes = [axes.get_position() for axes in figure.axes]
        left, right = boxes[0].x0 * width, boxes[0].x1 * width
        top, bottom = (1 - max(box.y1 for box in boxes)) * height, (1 - min(box.y0 for box in boxes)) * height
        found = {}
        for name, series in curves.items():
            at = dict(zip(series.steps, series.values))
            found[name] = [_number(at.get(step)) for step in steps]
        return cls((width, height), (left, top, right - left, bottom - top), steps, places, found)

    def as_json(self) -> str:
        """As a script of a page holds it."""
        facts = {
            "view": [round(length, 1) for length in self.view],
            "box": [round(length, 1) for length in self.box],
            "steps": self.steps,
            "places": [round(place, 4) for place in self.places],
            "curves": self.curves,
        }
        return json.dumps(facts, separators=(",", ":")).replace("<", "\\u003c")


def _number(value: float | None) -> float | None:
    """A value with four digits; nothing where it is not finite, which JSON does not have."""
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None
