"""The figure that most claims have: exact match over training steps, of splits in arms."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.claims.base import Found
from pipeline.plots.axes import StepScale
from pipeline.plots.base import Drawing
from pipeline.plots.seeds import Group, colours, comparison
from pipeline.runs.grokking import match_key
from pipeline.runs.metrics import Series


def curves(found: Found, lines: Mapping[str, tuple[str, str]], words: str) -> Drawing:
    """Exact match over training steps, each seed thin and their mean thick.

    Args:
        found: The finished runs.
        lines: label -> (arm, split).
        words: What the figure shows, as its caption.
    """
    series = {
        label: [one.run.series[match_key(split)] for one in found.arms[arm]] for label, (arm, split) in lines.items()
    }
    last = max(one.run.last_step for arm, _ in lines.values() for one in found.arms[arm])
    scale = StepScale.over(last, [run for runs in series.values() for run in runs])
    hues = colours(len(series), ordered=False)
    return Drawing(
        comparison([Group(label, runs, hue) for (label, runs), hue in zip(series.items(), hues)], None, scale),
        words,
        words,
    )


def first_step(series: Series, level: float) -> float | None:
    """The first step at which a series is at a level or above it."""
    return next((float(step) for step, value in zip(*series) if value >= level), None)
