"""Curves of analyses over training steps: progress measures, and how alike circuits are."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.plots.axes import SIZE, StepScale, axes_size, quantity_axis, text_width
from pipeline.plots.base import Drawing
from pipeline.plots.findings import of_losses
from pipeline.plots.style import (
    GREY,
    HUES,
    STYLE,
    TITLE,
    Line,
    Mark,
    Pen,
    draw,
    is_narrow,
    label_ends,
    label_margin,
    mark_margin,
    mark_steps,
    place_marks,
)
from pipeline.plots.style import panels as stacked
from pipeline.runs.metrics import Series

MOST_KEYS = 8  # frequencies with a curve of their own


def series(table: pa.Table, value: str) -> Series:
    """A column over the column `step`, without nulls and NaN."""
    pairs = zip(table["step"].to_pylist(), table[value].to_pylist())
    found = sorted((step, float(v)) for step, v in pairs if v is not None and np.isfinite(v))
    return Series(array("q", [s for s, _ in found]), array("d", [v for _, v in found]))


class Content(NamedTuple):
    """A panel: its title, its curves by label, and whether its axis is logarithmic; else it holds 0."""

    title: str
    curves: Mapping[str, Series]
    log: bool = False


class Curves:
    """Panels of curves over one axis of steps, below each other, with marked steps."""

    def __init__(self, contents: Sequence[Content], marks: Sequence[Mark], heights: Sequence[float]):
        every = [curve for _, curves, _ in contents for curve in curves.values()]
        scale = StepScale.over(max(curve.steps[-1] for curve in every), _rises(every))
        right = max(label_margin([label for _, curves, _ in contents for label in curves]), mark_margin(marks, scale))
        placed = place_marks(marks, scale, right)
        top = 0.3 + (0.32 if marks else 0) + (0.18 if any(place.row for place in placed) else 0)
        self.figure, self.axes = stacked(heights, right, top=top, gap=0.42)
        for axes, (title, curves, log) in zip(self.axes, contents):
            pens = [Pen(hue, 1.8) for hue in (*HUES, GREY, "#000000")]
            lines = [Line(label, curve, pen) for (label, curve), pen in zip(curves.items(), pens)]
            for line in lines:
                draw(axes, line, scale)
            if log:
                quantity_axis(axes, title, [line.series for line in lines], log=True)
            else:
                most = max(max(line.series.values) for line in lines)
                top = 1.02 if 0.5 < most <= 1 else 1.15 * most or 1.0
                least = min(0.0, min(min(line.series.values) for line in lines))
                axes.set_ylim(1.05 * least - 0.02 * top, top)
                axes.set_title(title, loc="left", fontsize=SIZE)
            scale.apply(axes, labelled=axes is self.axes[-1])
            label_ends(axes, lines, scale)
            mark_steps(axes, marks, len(marks) == 2)
        width, height = axes_size(self.axes[0])
        for mark, left, _, row in placed:
            above = 1 + (0.3 + 0.18 * row + TITLE * is_narrow()) / height
            self.axes[0].text(left / width, above, mark.text, color=mark.colour, transform=self.axes[0].transAxes)


def _rises(curves: Sequence[Series]) -> list[Series]:
    """Each curve as its way from first to last value, which says where on the axis something begins to happen."""
    return [
        Series(steps, array("d", np.abs(np.subtract(values, values[0])) / max(np.ptp(values), 1e-300)))
        for steps, values in curves
        if len(steps) > 1
    ]


@rc_context(STYLE)
def draw_progress(table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    def of(measure: str, frequency: int = -1) -> Series:
        chosen = table.filter((pc.field("measure") == measure) & (pc.field("frequency") == frequency))
        return series(chosen, "value")

    keys = sorted(set(table.filter(pc.field("measure") == "key")["frequency"].to_pylist()))
    last = table.filter(pc.field("step") == pc.max(table["step"]))
    found: dict[str, Drawing] = {}
    words = ", ".join(map(str, keys)) or "none"
    if len(set(table["step"].to_pylist())) > 1:
        losses = {name: of(f"{name} loss") for name in ("train", "held-out", "restricted", "excluded")}
        shares = {k: of("logits", k) for k in keys}
        strongest = sorted(sorted(keys, key=lambda k: -shares[k].values[-1])[:MOST_KEYS])
        inequality = {name: of(f"gini {name}") for name in ("embedding", "unembedding")}
        contents = [
            Content("loss, in nats", losses, log=True),
            Content("share of the logits' variance along key frequencies", {f"k = {k}": shares[k] for k in strongest}),
            Content("inequality of Fourier components (Gini)", inequality),
        ]
        contents = [content for content in contents if content.curves]
        curves = Curves(contents, marks, [2.0, 1.4, 1.1][: len(contents)])
        caption = (
            "Restricted: the logits' mean and key frequencies alone, on all pairs. Excluded: all but the key "
            f"frequencies, on trained pairs. Key frequencies, those of the last step: {words}."
        )
        alt, finding = "Losses, key frequencies and Gini coefficients over training steps", of_losses(losses, keys)
        found[""] = Drawing(curves.figure, alt, caption, finding=finding)
    caption = f"Shares by frequency at step {last['step'][0].as_py():,}; key frequencies in colour: {words}."
    alt = "Shares of embedding, neurons and logits by frequency"
    found["spectrum"] = Drawing(spectrum(last, keys), alt, caption, table=last)
    return found


@rc_context(STYLE)
def spectrum(table: pa.Table, keys: Sequence[int]) -> Figure:
    """The share of each frequency in embedding, neurons and logits, at one step."""
    figure, rows = stacked([0.85] * 3, 0.15, top=0.25, gap=0.36)
    titles = {"embedding": "power of the token embedding", "neurons": "variance of neurons whose best frequency it is"}
    titles["logits"] = "variance of the logits along the true answer's wave"
    for axes, (measure, title) in zip(rows, titles.items()):
        chosen = table.filter(pc.field("measure") == measure)
        frequencies, values = chosen["frequency"].to_pylist(), chosen["value"].to_pylist()
        axes.bar(frequencies, values, width=0.7, color=[HUES[0] if k in keys else "#bbbbbb" for k in frequencies])
        axes.set_axisbelow(True)
        axes.grid(False, axis="x")
        axes.set_title(title, loc="left", fontsize=SIZE)
        axes.set_xlim(0, len(frequencies) + 1)
        axes.set_ylim(0, 1.3 * max([*values, 1e-9]))
        _name_bars(axes, {k: value for k, value in zip(frequencies, values) if k in keys})
        axes.tick_params(labelbottom=axes is rows[-1])
    rows[-1].set_xlabel("frequency k")
    return figure


def _name_bars(axes: Axes, tops: Mapping[int, float]) -> None:
    """Write the frequency over each bar, above the names of its neighbours where they would touch."""
    width, height = axes_size(axes)
    across, up = width / axes.get_xlim()[1], height / axes.get_ylim()[1]
    line, placed = 1.15 * (SIZE - 1) / 72, list[tuple[float, float, float]]()
    for k, value in sorted(tops.items(), key=lambda each: each[1]):
        half, y = text_width(str(k), SIZE - 1) / 2 + 0.01, value * up + 0.02
        left, right = k * across - half, k * across + half
        for other_left, other_right, other_y in sorted(placed, key=lambda each: each[2]):
            if left < other_right and other_left < right and other_y - line < y < other_y + line:
                y = other_y + line
        placed.append((left, right, y))
        axes.text(k, y / up, str(k), ha="center", va="bottom", fontsize=SIZE - 1)


@rc_context(STYLE)
def draw_similarity(table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    contents = []
    words = {"before": "with the step before", "last": "with the last step", "other run": "with the other run"}
    for name, title in words.items():
        chosen = table.filter(pc.field("to") == name)
        if len(chosen) > 1:
            curves = {kind: series(chosen, kind) for kind in ("edges", "nodes", "weighted")}
            if name == "before":
                curves["running change"] = series(chosen, "change")
            contents.append(Content(f"Jaccard similarity {title}", curves))
    if not contents:
        return {}
    caption = "Of the edges with the highest |score|, of the nodes at their ends, and of all edges by their scores"
    figure = Curves(contents, marks, [1.5] * len(contents)).figure
    return {"": Drawing(figure, "Similarity of circuits over training steps", f"{caption}.")}
