"""Figures for a paper: in the width of its column, with type of its size, and a legend inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.plots.axes import StepScale, match_axis, thinned
from pipeline.plots.seeds import TINTED, Group, over_seeds
from pipeline.plots.style import GREY, STYLE, Mark

WIDTHS: Mapping[str, float] = {"column": 3.3, "page": 6.9}  # inches
SIZE = 8.0  # of type, in points
LOOK: Any = {
    **STYLE,
    "axes.grid": False,
    "axes.linewidth": 0.6,
    "font.size": SIZE,
    "lines.solid_capstyle": "butt",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}


@rc_context(LOOK)
def curves(
    groups: Sequence[Group], scale: StepScale, width: str, label: str = "exact match", marks: Sequence[Mark] = ()
) -> Figure:
    """Exact match over steps, a curve for each group: of several runs their mean, tinted as `over_seeds` has it.

    Args:
        width: One of WIDTHS.
        label: Of the vertical axis.
        marks: Steps with a dashed line.
    """
    figure = Figure(figsize=(WIDTHS[width], 2.2), layout="constrained")
    axes = figure.add_subplot()
    match_axis(axes, scale, label)
    for mark in marks:
        axes.axvline(mark.step, color=GREY, linewidth=0.6, linestyle=(0, (4, 2)))
    for i, group in enumerate(groups):
        mean, low, high = over_seeds(group.runs)
        if len(group.runs) >= TINTED:
            axes.fill_between(mean.steps, low, high, color=group.colour, alpha=0.2, linewidth=0)
        steps, values = thinned(mean, scale)
        dashes = ("-", (0, (4, 1)), (0, (1, 1)))[i % 3]  # which a print in grey keeps apart
        axes.plot(steps, values, color=group.colour, linewidth=1.2, linestyle=dashes, label=group.label)
    axes.legend(frameon=False, fontsize=SIZE - 1, handlelength=1.8)
    return figure
