"""Figures of the analysis `latent_space`: volumes of sentences, and what points stand for, over training steps."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.plots.axes import SIZE
from pipeline.plots.base import Drawing
from pipeline.plots.measures import Content, Curves, series
from pipeline.plots.style import GREY, HUES, STYLE, Mark, label_margin, panels
from pipeline.runs.metrics import Series


@rc_context(STYLE)
def draw_latent_space(table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    steps = sorted(set(table["step"].to_pylist()))
    last = table.filter(pc.field("step") == steps[-1])
    found: dict[str, Drawing] = {}
    if len(steps) > 1:
        volumes = {of: _curve(table, "volume", of) for of in values_of(last, "volume")}
        valid = {of: _curve(table, "valid", of) for of in values_of(last, "valid")}
        valid |= {f"{of}, unique": _curve(table, "unique", of) for of in values_of(last, "unique")}
        contents = [
            Content("volume of the sentences of each split, and of what is none", volumes),
            Content("points that stand for a sentence of the grammar", valid),
        ]
        words = "Shares of the cube by what its points stand for, and of points that are drawn."
        found[""] = Drawing(Curves(contents, marks, [1.8, 1.8]).figure, "Volumes over training steps", words)
    words = f"At step {steps[-1]:,}; coverage is of all sentences of a split."
    found["points"] = Drawing(_bars(last), "What points stand for, evenly spread and sampled", words, table=last)
    return found


def values_of(table: pa.Table, measure: str) -> dict[str, float]:
    """A measure by what it is of, at one step."""
    chosen = table.filter(pc.field("measure") == measure)
    return dict(zip(chosen["of"].to_pylist(), chosen["value"].to_pylist()))


def _curve(table: pa.Table, measure: str, of: str) -> Series:
    return series(table.filter((pc.field("measure") == measure) & (pc.field("of") == of)), "value")


def curve(tables: Mapping[int, pa.Table], measure: str, of: str) -> Series:
    """A measure over the steps of tables."""
    values = {step: values_of(table, measure)[of] for step, table in sorted(tables.items())}
    return Series(array("q", values), array("d", values.values()))


def _bars(table: pa.Table) -> Figure:
    measures = [
        name for name in dict.fromkeys(table["measure"].to_pylist()) if name not in ("volume", "reconstruction")
    ]
    ways = list(values_of(table, measures[0]))
    figure, (axes,) = panels([1.8], label_margin(ways), top=0.3)
    for number, (way, hue) in enumerate(zip(ways, (HUES[0], GREY))):
        heights = [values_of(table, measure)[way] for measure in measures]
        places = [place + 0.4 * (number - 0.5) for place in range(len(measures))]
        axes.bar(places, heights, width=0.38, color=hue, label=way)
    axes.set_xticks(range(len(measures)), [measure.replace(" of ", "\nof ") for measure in measures])
    axes.set_axisbelow(True)
    axes.grid(False, axis="x")
    axes.set_title("share", loc="left", fontsize=SIZE)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, handletextpad=0.2)
    return figure
