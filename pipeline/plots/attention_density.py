"""Figures of the analysis `attention_density`: over examples in context, and over steps."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.plots.axes import SIZE
from pipeline.plots.base import Drawing
from pipeline.plots.measures import Content, Curves, series
from pipeline.plots.style import HUES, STYLE, Mark, label_margin, panels
from pipeline.runs.metrics import Series

ALL = -1
CONTEXT, RANDOM = "prompts", "random tokens"


def over_shots(table: pa.Table, measure: str, layer: int, context: str = CONTEXT) -> Series:
    """A measure of a layer, or with layer -1 of the model, over positions of the last token's place, at one step."""
    here = (pc.field("measure") == measure) & (pc.field("layer") == layer) & (pc.field("head") == ALL)
    last = max(table.to_pylist(), key=lambda row: row["position"])
    chosen = table.filter(here & (pc.field("context") == context) & (pc.field("place") == last["place"])).to_pylist()
    known = sorted((row["shot"], row["value"]) for row in chosen if row["value"] is not None)
    return Series(array("q", [shot for shot, _ in known]), array("d", [value for _, value in known]))


def layers_of(table: pa.Table) -> list[int]:
    return sorted(set(table["layer"].to_pylist()) - {ALL})


@rc_context(STYLE)
def draw_density(table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    steps = sorted(set(table["step"].to_pylist()))
    last = table.filter(pc.field("step") == steps[-1])
    found: dict[str, Drawing] = {}
    if len(steps) > 1:
        end = max(table["position"].to_pylist())
        here = (pc.field("position") == end) & (pc.field("head") == ALL)

        def curve(measure: str, layer: int, context: str = CONTEXT) -> Series:
            chosen = here & (pc.field("measure") == measure) & (pc.field("layer") == layer)
            return series(table.filter(chosen & (pc.field("context") == context)), "value")

        layers = layers_of(table)[-5:]
        counted = {f"block {layer}": curve("density", layer) for layer in layers}
        counted[f"{RANDOM}, block {layers[-1]}"] = curve("density", layers[-1], RANDOM)
        contents = [Content("tokens that heads attend to at the end of prompts, all heads together", counted)]
        contents.append(Content("share of prompts with the right answer", {"right": curve("right", ALL)}))
        caption = "Attention above the threshold counts; beside it that to random tokens in the place of the prompts'."
        figure = Curves(contents, marks, [1.8, 1.2]).figure
        found[""] = Drawing(figure, "How many tokens heads attend to, over steps", caption)
    caption = f"By examples in context, at step {steps[-1]:,}: positions of the last token's place, in order."
    alt = "How many tokens heads attend to, over examples in context"
    found["shots"] = Drawing(shots([last]), alt, caption, table=last)
    return found


@rc_context(STYLE)
def shots(tables: Sequence[pa.Table]) -> Figure:
    """Density of the layers and right answers over examples in context, of one step each of several runs: means."""
    layers = layers_of(tables[0])
    names = [f"block {layer}" for layer in layers]
    figure, (upper, lower) = panels([1.7, 1.2], label_margin([*names, "random tokens"]), top=0.3, gap=0.42)
    for layer, name, hue in zip(layers, names, HUES * len(layers)):
        runs = [over_shots(table, "density", layer) for table in tables]
        for run in runs if len(runs) > 1 else ():
            upper.plot(run.steps, run.values, color=hue, linewidth=0.6)
        mean = [sum(values) / len(values) for values in zip(*(run.values for run in runs))]
        upper.plot(runs[0].steps, mean, ".-", color=hue, linewidth=1.8, label=name)
        beside = [over_shots(table, "density", layer, RANDOM) for table in tables]
        height = sum(run.values[-1] for run in beside) / len(beside)
        upper.plot(beside[0].steps[-1:], [height], "x", color=hue, markersize=7)
    upper.plot([], [], "x", color="#000000", label="random tokens")
    for table in tables:
        right = over_shots(table, "right", ALL)
        lower.plot(right.steps, right.values, ".-", color="#000000", linewidth=0.8)
    upper.set_ylim(0)
    lower.set_ylim(0, 1.02)
    upper.tick_params(labelbottom=False)
    upper.set_title("tokens that heads attend to, all heads together", loc="left", fontsize=SIZE)
    lower.set_title("share of right next tokens", loc="left", fontsize=SIZE)
    lower.set_xlabel("examples in context")
    upper.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure
