"""The figure that most claims have: exact match over training steps, of splits in arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.claims.base import Found
from pipeline.plots.axes import StepScale
from pipeline.plots.base import Drawing
from pipeline.plots.measures import Content, Curves
from pipeline.plots.seeds import Group, colours, comparison, over_seeds
from pipeline.plots.style import STYLE
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


@rc_context(STYLE)
def over_arms(curves: Mapping[str, Mapping[str, Sequence[Series]]]) -> Figure:
    """Panel -> arm -> runs: the mean of the runs of each arm over steps."""
    contents = [
        Content(title, {arm: over_seeds(runs)[0] for arm, runs in arms.items()}) for title, arms in curves.items()
    ]
    return Curves(contents, (), [1.6] * len(contents)).figure


def first_step(series: Series, level: float) -> float | None:
    """The first step at which a series is at a level or above it."""
    return next((float(step) for step, value in zip(*series) if value >= level), None)
