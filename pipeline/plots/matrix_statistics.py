"""Figures of the analyses `matrix_statistics` and `cka`: over steps, or by component at one."""

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

KINDS = {"weight": "weights", "gradient": "gradients", "activation": "activations"}
MEASURES = {"effective rank": "effective rank", "Gini": "Gini coefficient of entries"}
MOST = 8  # curves in a panel


def _name(component: str, layer: int) -> str:
    return component if layer < 0 else f"{component} {layer}"


def _places(table: pa.Table) -> list[tuple[str, int]]:
    return list(dict.fromkeys(zip(table["component"].to_pylist(), table["layer"].to_pylist())))


@rc_context(STYLE)
def draw_statistics(table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    steps = sorted(set(table["step"].to_pylist()))
    found: dict[str, Drawing] = {}
    for kind, title in KINDS.items() if len(steps) > 1 else ():
        chosen = table.filter(pc.field("kind") == kind)
        contents = []
        for measure, words in MEASURES.items():
            values = chosen.filter(pc.field("measure") == measure)
            curves = {}
            for component, layer in _places(values)[-MOST:]:
                here = (pc.field("component") == component) & (pc.field("layer") == layer)
                curves[_name(component, layer)] = series(values.filter(here), "value")
            known = {name: curve for name, curve in curves.items() if len(curve.steps)}
            if known:
                contents.append(Content(f"{words}: {title}", known))
        if contents:
            figure = Curves(contents, marks, [1.9] * len(contents)).figure
            caption = "Effective rank and sparsity; gradients and activations are those of one probe batch."
            alt = f"Statistics of {title} over steps"
            found["" if kind == "weight" else kind] = Drawing(figure, alt, caption, table=chosen)
    last = table.filter(pc.field("step") == steps[-1])
    caption = f"Share of the full rank that the effective rank is, by component, at step {steps[-1]:,}."
    ranks = last.filter(pc.field("measure") == "proportional rank")
    found["ranks"] = Drawing(_bars(ranks), "Effective rank of weights, gradients and activations", caption, table=ranks)
    return found


def _bars(chosen: pa.Table) -> Figure:
    """Proportional ranks at one step."""
    shown = [kind for kind in KINDS if kind in chosen["kind"].to_pylist()]
    figure, rows = panels([1.0] * len(shown), 0.2, top=0.3, gap=0.95)
    for axes, kind in zip(rows, shown):
        values = [row for row in chosen.filter(pc.field("kind") == kind).to_pylist() if row["value"] is not None]
        names = [_name(row["component"], row["layer"]) for row in values]
        every = every_nth(len(names), 24)
        axes.bar(range(len(names)), [row["value"] for row in values], width=0.7, color=HUES[0])
        axes.set_axisbelow(True)
        axes.grid(False, axis="x")
        axes.set_xticks(range(0, len(names), every), names[::every], rotation=90, fontsize=SIZE - 2)
        axes.set_ylim(0, 1.02)
        axes.set_title(f"effective rank over the full rank: {KINDS[kind]}", loc="left", fontsize=SIZE)
    return figure


@rc_context(STYLE)
def draw_cka(table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    words = {"before": "with the step before", "last": "with the last step", "other run": "with the other run"}
    contents = []
    for name, title in words.items():
        chosen = table.filter(pc.field("to") == name)
        curves = {}
        for component, layer in _places(chosen)[-MOST:]:
            here = (pc.field("component") == component) & (pc.field("layer") == layer)
            curves[_name(component, layer)] = series(chosen.filter(here), "cka")
        if len(chosen) > len(curves) and all(len(curve.steps) for curve in curves.values()):
            contents.append(Content(f"CKA {title}", curves))
    if not contents:
        return {}
    caption = "Linear centred kernel alignment of activations at the last position of the probe batch."
    figure = Curves(contents, marks, [1.7] * len(contents)).figure
    return {"": Drawing(figure, "Similarity of representations over training steps", caption)}
