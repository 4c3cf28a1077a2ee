"""Figures of the analysis `smoothness`: how alike states of neighbouring tokens are, by layer."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.plots.axes import SIZE
from pipeline.plots.base import Drawing
from pipeline.plots.measures import Content, Curves, series
from pipeline.plots.style import HUES, STYLE, Mark, panels
from pipeline.runs.metrics import Series

TITLE = "smoothness of states along a text"
MOST = 6  # layers with a curve of their own


def curve_of(table: pa.Table, layer: int) -> Series:
    """The smoothness of a layer over steps."""
    return series(table.filter(pc.field("layer") == layer), "smoothness")


@rc_context(STYLE)
def draw_smoothness(table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    steps, layers = (sorted(set(table[name].to_pylist())) for name in ("step", "layer"))
    found: dict[str, Drawing] = {}
    curves = {_name(layer, layers): curve_of(table, layer) for layer in layers[-MOST:]}
    curves = {name: curve for name, curve in curves.items() if len(curve.steps)}  # none of a single prompt
    if len(steps) > 1 and curves:
        caption = (
            "1 where neighbouring tokens have the same state, 0 where their states are no more alike than any two."
        )
        found[""] = Drawing(Curves([Content(TITLE, curves)], marks, [1.8]).figure, f"{TITLE}, over steps", caption)
    caption = f"Cosine between states of neighbouring tokens and of any two, by layer, at step {steps[-1]:,}."
    last = table.filter(pc.field("step") == steps[-1]).sort_by("layer")
    found["layers"] = Drawing(_bars(last), f"{TITLE}, by layer", caption, table=last)
    return found


def _name(layer: int, layers: Sequence[int]) -> str:
    return "top" if layer == layers[-1] else f"before block {layer}"


def _bars(table: pa.Table) -> Figure:
    """Of every layer, at one step."""
    figure, rows = panels([1.0] * 3, 0.2, top=0.3, gap=0.42)
    layers = table["layer"].to_pylist()
    titles = {"beside": "cosine of neighbours", "any": "cosine of any two", "smoothness": TITLE}
    for axes, (name, title) in zip(rows, titles.items()):
        axes.bar(layers, table[name].to_numpy().astype(float), width=0.7, color=HUES[0])
        axes.set_axisbelow(True)
        axes.grid(False, axis="x")
        axes.set_title(title, loc="left", fontsize=SIZE)
        axes.set_xticks(layers)
    rows[-1].set_xlabel("blocks before the state")
    return figure
