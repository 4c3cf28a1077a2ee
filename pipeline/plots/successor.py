"""Figures of the analysis `successor`: scores of heads over steps, and of the best one by set."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.plots.axes import SIZE
from pipeline.plots.base import Drawing
from pipeline.plots.measures import Content, Curves, series
from pipeline.plots.style import GREY, HUES, STYLE, Mark, every_nth, panels

ALL = "all"
MOST = 6  # curves in a panel

Head = tuple[int, int]  # layer, number


def scores(table: pa.Table, of: str = ALL) -> dict[Head, float]:
    """The score of each head on a set, at one step; the best first."""
    chosen = table.filter(pc.field("set") == of)
    columns = (chosen[name].to_pylist() for name in ("layer", "head", "score"))
    found = {(layer, head): score for layer, head, score in zip(*columns)}
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


@rc_context(STYLE)
def draw_successor(table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    steps = sorted(set(table["step"].to_pylist()))
    last = table.filter(pc.field("step") == steps[-1])
    heads = list(scores(last))
    best = heads[0]
    found: dict[str, Drawing] = {}
    if len(steps) > 1:

        def of(head: Head, name: str) -> pa.Table:
            here = (pc.field("layer") == head[0]) & (pc.field("head") == head[1])
            return table.filter(here & (pc.field("set") == name))

        every = {f"L{layer}H{head}": series(of((layer, head), ALL), "score") for layer, head in heads[:MOST]}
        every["chance"] = series(of(best, ALL), "chance")
        names = [name for name in dict.fromkeys(last["set"].to_pylist()) if name != ALL]
        contents = [Content("elements whose successor a head ranks first", every)]
        if names:
            by_set = {name: series(of(best, name), "score") for name in names[: MOST + 1]}
            contents.append(Content(f"the same of L{best[0]}H{best[1]}, by set", by_set))
        figure = Curves(contents, marks, [2.0, 1.8][: len(contents)]).figure
        caption = f"By the weights alone; of all {len(heads)} heads the {min(len(heads), MOST)} best of the last step."
        found[""] = Drawing(figure, "Successor scores of heads over steps", caption)
    caption = f"Successor scores of all heads at step {steps[-1]:,}; the line is chance."
    found["heads"] = Drawing(_bars(last), "Successor scores of all heads", caption, table=last)
    return found


def _bars(table: pa.Table) -> Figure:
    found = dict(sorted(scores(table).items()))
    chance = table.filter(pc.field("set") == ALL)["chance"][0].as_py()
    figure, (axes,) = panels([1.6], 0.2, top=0.3)
    best = max(found, key=lambda head: found[head])
    axes.bar(range(len(found)), list(found.values()), color=[HUES[0] if head == best else "#bbbbbb" for head in found])
    axes.axhline(chance, color=GREY, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.grid(False, axis="x")
    every = every_nth(len(found), 16)
    axes.set_xticks(range(0, len(found), every), [f"L{layer}H{head}" for layer, head in list(found)[::every]])
    axes.set_ylim(0, max(1.05 * found[best], 0.05))
    axes.set_title("elements whose successor a head ranks first", loc="left", fontsize=SIZE)
    return figure
