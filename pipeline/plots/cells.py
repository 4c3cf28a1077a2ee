"""Figure of a sweep over cells, in each of which several ways are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pipeline.plots.axes import SIZE, text_width
from pipeline.plots.seeds import NOT_YET
from pipeline.plots.style import GREY, HUES, STYLE, label_margin, panels


class CellRun(NamedTuple):
    """A run in a cell: the way it was trained, the step that it reached something at, and its last step."""

    cell: str
    way: str
    step: int | None
    last_step: int


@rc_context(STYLE)
def cells(title: str, runs: Sequence[CellRun]) -> Figure:
    """Steps by cell, one row each, and by way, one colour each; every run is a point.

    An open triangle is a run that had not come so far by its last step.
    """
    rows, ways = (list(dict.fromkeys(names)) for names in ([run.cell for run in runs], [run.way for run in runs]))
    figure, (axes,) = panels(
        [max(0.4, 0.12 * len(ways)) * len(rows) + 0.3],
        label_margin([*ways, NOT_YET]),
        top=0.3,
        left=0.25 + max(map(text_width, rows)),
    )
    axes.set_xscale("log")
    apart = 0.5 / max(len(ways), 2)
    for i, (way, hue) in enumerate(zip(ways, HUES)):
        shift = apart * (i - (len(ways) - 1) / 2)
        own = [(run, rows.index(run.cell) + shift) for run in runs if run.way == way]
        reached = [(max(run.step, 1), y) for run, y in own if run.step is not None]
        missed = [(max(run.last_step, 1), y) for run, y in own if run.step is None]
        axes.plot([x for x, _ in reached], [y for _, y in reached], "o", color=hue, markersize=5, label=way)
        look: Any = {"color": hue, "markersize": 6, "markerfacecolor": "none"}
        axes.plot([x for x, _ in missed], [y for _, y in missed], "^", **look)
    if any(run.step is None for run in runs):
        axes.plot([], [], "^", color=GREY, markersize=6, markerfacecolor="none", label=NOT_YET)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.06)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training step (log scale)")
    axes.set_title(title, loc="left", fontsize=SIZE)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, handletextpad=0.2)
    return figure
