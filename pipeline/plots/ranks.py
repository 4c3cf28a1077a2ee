"""Accuracy over how many terms of an MLP are kept, and how much of it they make up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from pipeline.plots.axes import SIZE
from pipeline.plots.base import Drawing
from pipeline.plots.style import HUES, STYLE, label_margin, panels

X_LABEL = "terms that are kept, those with the largest weights"
PARTS = {
    "accuracy with so many terms for each answer": ("accuracy", {"eigenvectors": HUES[0], "neurons": HUES[1]}),
    "share of the whole up to a rank": ("share", {"spectrum": HUES[2], "hosvd": HUES[3]}),
}


class Ranks(NamedTuple):
    """Values by rank."""

    ranks: Sequence[int]
    values: Sequence[float]


def curve_of(table: pa.Table, part: str, column: str) -> Ranks:
    """A column of a part of a table of `circuits.eigen`."""
    chosen = table.filter(pc.field("part") == part)
    return Ranks(chosen["rank"].to_pylist(), chosen[column].to_pylist())


@rc_context(STYLE)
def draw_ranks(table: pa.Table) -> dict[str, Drawing]:
    """The curves of a table of `circuits.eigen` at its last step."""
    step = pc.max(table["step"]).as_py()
    last = table.filter(pc.field("step") == step)
    labels = [part for _, parts in PARTS.values() for part in parts]
    figure, rows = panels([2.0, 1.3], label_margin(labels), top=0.3, gap=0.42)
    for axes, (title, (column, parts)) in zip(rows, PARTS.items()):
        _axes(axes, title, {part: [curve_of(last, part, column)] for part in parts}, list(parts.values()))
    rows[-1].set_xlabel(X_LABEL)
    caption = f"The last MLP at step {step:,}, cut down to few eigenvectors or few neurons for each answer."
    alt = "Accuracy over the number of eigenvectors and of neurons that are kept"
    return {"": Drawing(figure, alt, caption, table=last)}


@rc_context(STYLE)
def ranks_over_seeds(title: str, curves: Mapping[str, Sequence[Ranks]]) -> Figure:
    """Values over ranks, each run thin and the mean of all with a label thick."""
    figure, (axes,) = panels([2.6], label_margin(list(curves)), top=0.3)
    _axes(axes, title, curves, HUES)
    axes.set_xlabel(X_LABEL)
    return figure


def _axes(axes: Axes, title: str, curves: Mapping[str, Sequence[Ranks]], hues: Sequence[str]) -> None:
    """Curves from 0 to 1 on an axis of ranks, linear up to 1 and logarithmic from there."""
    for (label, runs), hue in zip(curves.items(), hues):
        for run in runs if len(runs) > 1 else ():
            axes.plot(*run, color=hue, linewidth=0.6)
        mean = np.mean([run.values for run in runs], axis=0)
        axes.plot(runs[0].ranks, mean, "o-", color=hue, markersize=3, label=label)
    most = max(run.ranks[-1] for runs in curves.values() for run in runs)
    axes.set_xscale("symlog", linthresh=1, base=2)
    axes.set_xlim(-0.2, most * 1.2)
    axes.xaxis.set_major_locator(FixedLocator([0, *(4**i for i in range(8) if 4**i <= most)]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.set_ylim(-0.02, 1.04)
    axes.set_title(title, loc="left", fontsize=SIZE)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
