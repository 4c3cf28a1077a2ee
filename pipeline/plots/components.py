"""Figures of the analysis `components`: what parts of a circuit there are over steps, and which heads they are."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import rc_context

from pipeline.plots.base import Drawing
from pipeline.plots.heatmap import drawn_grids, grids
from pipeline.plots.measures import Content, Curves
from pipeline.plots.style import STYLE, Mark
from pipeline.runs.metrics import Series
from pipeline.utils.format import listed

MOVER = "name mover"
LOOKING = ("induction", "previous token", "duplicate token")
SUPPRESSES = 0.1  # copy suppression from which on a head is said to do it
MATTERS = 0.05  # direct share, either way
MOST = 6  # heads with a curve of their own

Head = tuple[int, int]  # layer, number


def scores(table: pa.Table, component: str) -> dict[Head, float]:
    """The score of each head as a component, at one step; heads without one are left out."""
    chosen = table.filter((pc.field("component") == component) & pc.field("score").is_valid())
    return {(row["layer"], row["head"]): row["score"] for row in chosen.to_pylist()}


def movers(table: pa.Table) -> list[Head]:
    """The name movers of a step."""
    return sorted(head for head, score in scores(table, MOVER).items() if score > 0)


def suppressors(table: pa.Table) -> list[Head]:
    """The heads of a step that are no name movers, matter, and suppress copies."""
    direct, found = scores(table, "direct"), scores(table, "copy suppression")
    heads = [head for head, score in found.items() if score >= SUPPRESSES and abs(direct.get(head, 0.0)) >= MATTERS]
    return sorted(set(heads) - set(movers(table)))


def direct_share(table: pa.Table, heads: Callable[[pa.Table], list[Head]] = movers) -> float | None:
    """What some heads of a step write to the logits themselves, as a share of what corruption changes."""
    direct = scores(table, "direct")
    return sum(direct.get(head, 0.0) for head in heads(table)) if direct else None


def inhibition_share(table: pa.Table) -> float | None:
    """What the heads that lower the other token in the name movers' queries bring, as such a share."""
    found = scores(table, "S-inhibition")
    return sum(score for score in found.values() if score > 0) if found else None


def best(component: str) -> Callable[[pa.Table], float | None]:
    """Of a step the score of the head that has the highest."""
    return lambda table: max(scores(table, component).values(), default=None)


def of_head(component: str, head: Head) -> Callable[[pa.Table], float | None]:
    return lambda table: scores(table, component).get(head)


def over_steps(table: pa.Table, measure: Callable[[pa.Table], float | None]) -> Series:
    """A number of each step that has it."""
    steps = sorted(set(table["step"].to_pylist()))
    found = {step: measure(table.filter(pc.field("step") == step)) for step in steps}
    there = {step: value for step, value in found.items() if value is not None}
    return Series(array("q", there), array("d", there.values()))


@rc_context(STYLE)
def draw_components(table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    steps = sorted(set(table["step"].to_pylist()))
    last = table.filter(pc.field("step") == steps[-1])
    found: dict[str, Drawing] = {}
    if len(steps) > 1:
        every = [
            Content(
                "share of the logit difference",
                {
                    "name movers": over_steps(table, direct_share),
                    "copy suppression": over_steps(table, partial(direct_share, heads=suppressors)),
                    "S-inhibition": over_steps(table, inhibition_share),
                },
            ),
            Content(
                "score of the best head",
                {name: over_steps(table, best(name)) for name in ("copying", "copy suppression", *LOOKING)},
            ),
            Content("direct share of heads", _strongest(table)),
        ]
        contents = [
            Content(title, {name: curve for name, curve in of.items() if len(curve.steps)}) for title, of, _ in every
        ]
        contents = [content for content in contents if content.curves]
        caption = (
            "Above: what is lost of the logit difference, as a share of what corruption changes, where the name "
            "movers' edges to the logits, those of heads that suppress copies, or other heads' edges to the name "
            f"movers' queries are corrupted. At the last step name movers are {_named(movers(last))}, and "
            f"{_named(suppressors(last))} suppress copies."
        )
        figure = Curves(contents, marks, [1.6] * len(contents)).figure
        found[""] = Drawing(figure, "Components of the circuit over steps", caption)
    shown = grids(table, "score", "layer", "head", "component")
    shown = shown._replace(values=np.clip(shown.values, -1, 1))
    what = "score of each head as a component of the circuit"
    found["heads"] = drawn_grids(shown, what, ("layer", "head"), marks, signed=True)
    return found


def _named(heads: Sequence[Head]) -> str:
    return listed([f"L{layer}H{head}" for layer, head in heads]) if heads else "none"


def _strongest(table: pa.Table) -> dict[str, Series]:
    """The direct share of those heads, over steps, in which it goes farthest from 0 at any step."""
    direct = table.filter((pc.field("component") == "direct") & pc.field("score").is_valid())
    most: dict[Head, float] = {}
    for row in direct.to_pylist():
        head = (row["layer"], row["head"])
        most[head] = max(most.get(head, 0.0), abs(row["score"]))
    chosen: Iterable[Head] = sorted(sorted(most, key=lambda head: (-most[head], head))[:MOST])
    return {f"L{layer}H{head}": over_steps(direct, of_head("direct", (layer, head))) for layer, head in chosen}
