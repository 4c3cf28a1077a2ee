"""Pictures of attention: the scores of heads over steps, and where each of them looks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.plots.axes import SIZE
from pipeline.plots.base import Drawing
from pipeline.plots.heatmap import colour_map, drawn_grids, grids
from pipeline.plots.style import STYLE, WIDE, Mark

MOST_ACROSS = 12  # heads side by side


def draw_scores(table: pa.Table, marks: Sequence[Mark] = ()) -> Drawing:
    scores = table.filter(pc.field("score") != "pattern")
    found = grids(scores, "attention", "layer", "head", "score")
    what = (
        "mean attention of each head: of repeated random tokens to the one after their copy before (induction), to "
        "the token before them, and to that copy (duplicate token); of prompts to their first token (sink)"
    )
    return dataclasses.replace(drawn_grids(found, what, ("layer", "head"), marks), table=scores)


def draw_patterns(table: pa.Table) -> Drawing:
    last = pc.max(table["step"])
    chosen = table.filter((pc.field("score") == "pattern") & (pc.field("step") == last))
    caption = (
        f"Mean attention on the prompts at step {last.as_py():,}: from a position (down) to those before it (across)."
    )
    return Drawing(patterns(chosen), "mean attention pattern of each head at the last step", caption, table=chosen)


@rc_context(STYLE)
def patterns(table: pa.Table) -> Figure:
    """The mean pattern of each head, layers from bottom to top; at most twelve heads of a layer."""
    layers, heads, size = (pc.max(table[name]).as_py() + 1 for name in ("layer", "head", "query"))
    values = np.full((layers, heads, size, size), np.nan)
    values[tuple(table[name].to_numpy() for name in ("layer", "head", "query", "key"))] = table["attention"].to_numpy()
    names = dict(zip(table["query"].to_pylist(), table["place"].to_pylist()))
    shown = min(heads, MOST_ACROSS)
    left, bottom, gap = 0.75, 0.3, 0.08
    cell = min((WIDE - left - 0.75) / max(shown, 4) - gap, 1.3)
    crowded = cell <= 0.6  # too little room for words at each
    top = 0.45 if crowded else 0.3
    height = top + bottom + layers * (cell + gap)
    figure = Figure(figsize=(WIDE, height))
    for layer in range(layers):
        for head in range(shown):
            x, y = left + head * (cell + gap), bottom + layer * (cell + gap)
            axes = figure.add_axes((x / WIDE, y / height, cell / WIDE, cell / height))
            image = axes.imshow(values[layer, head], vmin=0, vmax=1, cmap=colour_map("Blues"))
            axes.grid(False)
            places = list(range(size)) if cell / size > 0.13 else []
            axes.set_xticks(places, [names[i] for i in places])
            axes.set_yticks(places, [names[i] for i in places])
            axes.tick_params(length=0, labelbottom=layer == 0, labelleft=head == 0)
            for spine in axes.spines.values():
                spine.set_visible(False)
            if layer == layers - 1:
                axes.set_title(str(head) if crowded else f"head {head}", fontsize=SIZE)
            if head == 0:
                upright: Any = {"rotation": 0, "va": "center"} if crowded else {}
                axes.set_ylabel(str(layer) if crowded else f"layer {layer}", **upright)
                axes.yaxis.set_label_coords(-(left - 0.3) / cell if places else -0.25, 0.5)
    if crowded:
        figure.text(left / WIDE, 1 - 0.1 / height, "layers from bottom to top, heads from left to right", va="center")
    edge = left + shown * (cell + gap) + 0.05
    scale = figure.add_axes((edge / WIDE, bottom / height, 0.08 / WIDE, min(layers * (cell + gap) - gap, 2) / height))
    figure.colorbar(image, cax=scale)
    scale.tick_params(length=2)
    scale.grid(False)
    return figure
