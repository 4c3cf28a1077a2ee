"""Figures of the analysis `sinks`: what happens at the first token, over steps or by layer and head."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.plots.axes import SIZE
from pipeline.plots.base import Drawing
from pipeline.plots.measures import Content, Curves, series
from pipeline.plots.style import HUES, STYLE, Mark, every_nth, panels
from pipeline.runs.metrics import Series

TITLES = {
    "attention": "attention to the first token",
    "sink logit": "its score above the others'",
    "value": "norm of its value over the others'",
    "residual": "norm of the stream there over the others'",
    "excess risk": "loss above the law of the corpus, in nats",
}
OF_HEADS = ("attention", "sink logit", "value")


def head_of(table: pa.Table) -> tuple[int, int]:
    """The layer and head that look most at the first token from dormant tokens, at the last step of a table."""
    last = table.filter(pc.field("step") == pc.max(table["step"]))
    chosen = last.filter((pc.field("measure") == "attention") & (pc.field("part") == "dormant"))
    best = max(chosen.to_pylist(), key=lambda row: (row["value"], -row["layer"], -row["head"]))
    return best["layer"], best["head"]


def peak_of(table: pa.Table) -> int:
    """The block after which the stream peaks most at the first token, at the last step of a table."""
    here = (pc.field("measure") == "residual") & (pc.field("step") == pc.max(table["step"]))
    return int(max(table.filter(here).to_pylist(), key=lambda row: (row["value"], -row["layer"]))["layer"])


def curve_of(table: pa.Table, measure: str, part: str, layer: int, head: int = -1) -> Series:
    """A measure over steps."""
    here = (pc.field("measure") == measure) & (pc.field("part") == part)
    return series(table.filter(here & (pc.field("layer") == layer) & (pc.field("head") == head)), "value")


@rc_context(STYLE)
def draw_sinks(table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    steps = sorted(set(table["step"].to_pylist()))
    layer, head = head_of(table)
    found: dict[str, Drawing] = {}
    if len(steps) > 1:
        parts = [part for part in ("dormant", "active") if part in table["part"].to_pylist()]
        layers = sorted(set(table.filter(pc.field("measure") == "residual")["layer"].to_pylist()))
        curves = {
            "attention": {part: curve_of(table, "attention", part, layer, head) for part in parts},
            "value": {"value": curve_of(table, "value", "", layer, head)},
            "residual": {f"block {one}": curve_of(table, "residual", "", one) for one in layers[-6:]},
            "excess risk": {part: curve_of(table, "excess risk", part, -1) for part in parts},
        }
        whole = {measure: lines for measure, lines in curves.items() if all(len(line.steps) for line in lines.values())}
        contents = [Content(TITLES[measure], lines) for measure, lines in whole.items()]
        figure = Curves(contents, marks, [1.5] * len(contents)).figure
        caption = f"Attention and value are those of L{layer}H{head}, which looks most at the first token at the end; "
        caption += "a head is dormant where nothing is copied, and active where something is."
        found[""] = Drawing(figure, "Attention, value and residual stream at the first token, over steps", caption)
    last = table.filter(pc.field("step") == steps[-1])
    caption = f"What heads do at the first token of prompts, at step {steps[-1]:,}."
    alt = "Attention to the first token, score and value of all heads"
    found["heads"] = Drawing(_bars(last), alt, caption, table=last)
    return found


def _bars(table: pa.Table) -> Figure:
    """Of every head, at one step."""
    figure, rows = panels([1.0] * len(OF_HEADS), 0.2, top=0.3, gap=0.42)
    for axes, measure in zip(rows, OF_HEADS):
        chosen = table.filter((pc.field("measure") == measure) & (pc.field("part") != "active")).to_pylist()
        names = [f"L{row['layer']}H{row['head']}" for row in chosen]
        every = every_nth(len(names), 16)
        axes.bar(range(len(names)), [row["value"] for row in chosen], width=0.7, color=HUES[0])
        axes.set_axisbelow(True)
        axes.grid(False, axis="x")
        axes.set_xticks(range(0, len(names), every), names[::every])
        axes.set_title(TITLES[measure], loc="left", fontsize=SIZE)
    return figure
