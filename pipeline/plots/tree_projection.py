"""Figures of the analysis `tree_projection`: how tree-like a model's states are, over steps."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import rc_context

from pipeline.plots.axes import SIZE
from pipeline.plots.base import Drawing
from pipeline.plots.measures import Content, Curves, series
from pipeline.plots.style import HUES, STYLE, Mark, panels
from pipeline.runs.metrics import Series

TITLES = {
    "tree score above that of random trees": ("t score", "t score of trees"),
    "parts that are those of the grammar (F1)": ("parseval", "right branching"),
    "minus the mean entropy of attention, in nats": ("sparsity",),
}


def curve_of(table: pa.Table, measure: str) -> Series:
    """A measure over steps."""
    return series(table.filter(pc.field("measure") == measure), "value")


@rc_context(STYLE)
def draw_tree_projection(table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    curves = {title: {name: curve_of(table, name) for name in names} for title, names in TITLES.items()}
    there = {title: {name: line for name, line in lines.items() if len(line.steps)} for title, lines in curves.items()}
    alt = "Tree scores, agreement with the grammar and sparsity of attention"
    if len(set(table["step"].to_pylist())) > 1:
        contents = [Content(title, lines) for title, lines in there.items() if lines]
        figure = Curves(contents, marks, [1.5] * len(contents)).figure
        caption = "How well a tree explains which words a model's states of parts of sentences depend on, over steps."
        return {"": Drawing(figure, alt, caption)}
    shown = [title for title, lines in there.items() if lines]
    figure, rows = panels([1.0] * len(shown), 0.2, top=0.3, gap=0.42)
    for axes, title in zip(rows, shown):
        axes.bar(list(there[title]), [line.values[-1] for line in there[title].values()], width=0.5, color=HUES[0])
        axes.grid(False, axis="x")
        axes.set_title(title, loc="left", fontsize=SIZE)
    caption = "How well a tree explains which words a model's states of parts of sentences depend on, at one step."
    return {"": Drawing(figure, alt, caption)}
