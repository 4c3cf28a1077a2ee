"""Figures of the analysis `directions`: what swapping and removing a direction does, over steps and by place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.plots.axes import SIZE
from pipeline.plots.base import Drawing
from pipeline.plots.measures import Content, Curves, series
from pipeline.plots.style import HUES, STYLE, Mark, label_margin, panels
from pipeline.runs.metrics import Series

MEAN, RANDOM, ALL = "mean difference", "random", "all"
MOST = 5  # places that are shown
NEARLY = 0.8
TITLES = {
    "patched": "share of the difference in the logits that swapping brings back",
    "removed": "share of the accuracy above one half that ablation removes",
}


def values(table: pa.Table, measure: str, layer: int, method: str = MEAN) -> dict[str, float]:
    """A measure by place, at one step; places without one are left out."""
    chosen = table.filter((pc.field("measure") == measure) & (pc.field("layer") == layer))
    chosen = chosen.filter(pc.field("method") == method)
    pairs = zip(chosen["place"].to_pylist(), chosen["value"].to_pylist())
    return {place: value for place, value in pairs if value is not None and np.isfinite(value)}


def layer_of(table: pa.Table) -> int:
    """The last block before which swapping coordinates at all positions brings back nearly as much as at any layer."""
    layers = sorted(set(table["layer"].to_pylist()) - {-1})
    found = {layer: values(table, "patched", layer).get(ALL, 0.0) for layer in layers[:-1]}
    return max(layer for layer in found if found[layer] >= NEARLY * max(found.values()))


def cosines(table: pa.Table, layer: int, position: int, method: str = MEAN) -> dict[str, float]:
    """The cosine of the direction of one method with those of all others, at one step."""
    here = (pc.field("measure") == "cosine") & (pc.field("layer") == layer) & (pc.field("position") == position)
    found = {}
    for row in table.filter(here).to_pylist():
        if method in (pair := (row["method"], row["other"])):
            found[pair[pair[0] == method]] = row["value"]
    return found


@rc_context(STYLE)
def draw_directions(table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    steps = sorted(set(table["step"].to_pylist()))
    last = table.filter(pc.field("step") == steps[-1])
    layer = layer_of(last)
    chosen = _largest(values(last, "removed", layer) or values(last, "flipped", layer))
    found: dict[str, Drawing] = {}
    if len(steps) > 1:
        contents = []
        for measure, title in TITLES.items():
            curves = {place: _curve(table, measure, layer, place, MEAN) for place in chosen}
            curves["random, all"] = _curve(table, measure, layer, ALL, RANDOM)
            if all(len(curve.steps) for curve in curves.values()):
                contents.append(Content(title, curves))
        if not contents:
            contents = [Content("accuracy of the model", {"accuracy": _curve(table, "accuracy", -1, ALL, "")})]
        caption = f"Along the difference of the class means before block {layer}; a random direction at all positions."
        figure = Curves(contents, marks, [1.7] * len(contents)).figure
        found[""] = Drawing(figure, "What swapping and removing a direction does, over steps", caption)
    caption = f"By place, along the difference of the class means and along a random direction, before block {layer} "
    caption += f"at step {steps[-1]:,}."
    alt = "What swapping and removing a direction does"
    found["places"] = Drawing(bars([last], layer, chosen), alt, caption, table=last)
    return found


def _curve(table: pa.Table, measure: str, layer: int, place: str, method: str) -> Series:
    here = (pc.field("measure") == measure) & (pc.field("layer") == layer) & (pc.field("place") == place)
    return series(table.filter(here & (pc.field("method") == method)), "value")


def _largest(found: Mapping[str, float]) -> list[str]:
    """All positions together, and the places that matter most."""
    places = sorted((place for place in found if place != ALL), key=lambda place: -found[place])
    return [ALL, *places[: MOST - 1]]


@rc_context(STYLE)
def bars(tables: Sequence[pa.Table], layer: int, places: Sequence[str] = ()) -> Figure:
    """What a direction does at places, of one step each of several runs: means, and a dot for each run."""
    titles = {**TITLES, "flipped": "share of pairs in which the clean answer wins where its coordinate is put in"}
    shown = {name: title for name, title in titles.items() if values(tables[0], name, layer)}
    places = places or _largest(values(tables[0], next(iter(shown)), layer))
    methods = {MEAN: HUES[0], RANDOM: "#bbbbbb"}
    figure, rows = panels([1.1] * len(shown), label_margin(methods) + 0.3, top=0.3, gap=0.42)
    for axes, (measure, title) in zip(rows, shown.items()):
        for shift, (method, colour) in enumerate(methods.items()):
            each = [values(table, measure, layer, method) for table in tables]
            heights = np.array([[one.get(place, 0.0) for place in places] for one in each])  # (runs, places)
            at = np.arange(len(places)) + 0.4 * shift - 0.2
            axes.bar(at, heights.mean(axis=0), width=0.38, color=colour, label=method)
            for one in heights if len(tables) > 1 else ():
                axes.plot(at, one, ".", color="#000000", markersize=3)
        axes.set_axisbelow(True)
        axes.grid(False, axis="x")
        axes.set_xticks(range(len(places)), places)
        axes.set_title(title, loc="left", fontsize=SIZE)
        axes.tick_params(labelbottom=axes is rows[-1])
    rows[0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure
