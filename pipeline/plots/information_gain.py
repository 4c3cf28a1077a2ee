"""Figures of the analysis `information_gain`: what steps of chains gain, and how well wrong ones are found."""

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

# Measure -> what it is, in words.
PANELS = {
    "gain": "fall of the supervisor's loss at a step, in nats",
    "outcome": "probability of a right end, by an outcome reward",
    "completed": "completions that end right",
}
CHAINS = {"right": HUES[0], "wrong": HUES[1]}

Profile = Mapping[int, float]  # step of a chain -> value


def profile(table: pa.Table, measure: str, of: str) -> Profile:
    """A measure of chains by their steps, at one step of training; without those that are not known."""
    chosen = table.filter((pc.field("measure") == measure) & (pc.field("of") == of))
    pairs = zip(chosen["prefix"].to_pylist(), chosen["value"].to_pylist())
    return {prefix: value for prefix, value in sorted(pairs) if value is not None}


@rc_context(STYLE)
def draw_information_gain(table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    steps = sorted(set(table["step"].to_pylist()))
    last = table.filter(pc.field("step") == steps[-1])
    found: dict[str, Drawing] = {}
    if len(steps) > 1:
        found[""] = _over_training(table, marks)
    profiles = {
        measure: {of: [profile(last, measure, of)] for of in CHAINS if profile(last, measure, of)} for measure in PANELS
    }
    words = (
        f"By step of the chain, at step {steps[-1]:,} of training: chains that stay right, and chains that go wrong."
    )
    if not profiles["gain"]:
        words += " The supervisor is too weak for gains to be told."
    found["steps"] = Drawing(by_step_of_chain(profiles), "What steps of chains gain", words, table=last)
    return found


def _over_training(table: pa.Table, marks: Sequence[Mark]) -> Drawing:
    def of(measure: str, name: str, prefix: int) -> pa.Table:
        chosen = (pc.field("measure") == measure) & (pc.field("of") == name) & (pc.field("prefix") == prefix)
        return table.filter(chosen)

    longest = pc.max(table["prefix"]).as_py()
    losses = {
        f"{name}, {shown} steps": series(of("loss", name, shown), "value")
        for name in CHAINS
        for shown in (0, longest)
        if len(of("loss", name, shown))
    }
    ways = dict.fromkeys(table.filter(pc.field("measure") == "accuracy")["of"].to_pylist())
    accuracy = {way: series(of("accuracy", way, -1), "value") for way in ways}
    contents = [Content("loss of the right answer, in nats", losses)]
    known = {way: curve for way, curve in accuracy.items() if curve.steps}
    if known:
        contents.append(Content("steps of wrong chains told right", known))
    figure = Curves(contents, marks, [1.8, 1.5][: len(contents)]).figure
    words = "The loss of the answer before the first step and after the last, and how well wrong steps are found."
    return Drawing(figure, words, words)


@rc_context(STYLE)
def by_step_of_chain(profiles: Mapping[str, Mapping[str, Sequence[Profile]]]) -> Figure:
    """Measures by step of the chain, of right and wrong chains; each run thin, and their mean thick.

    Args:
        profiles: measure -> kind of chain -> one for each run.
    """
    shown = {measure: kinds for measure, kinds in profiles.items() if kinds}
    figure, every = panels([1.3] * len(shown), label_margin(CHAINS), top=0.3, gap=0.42)
    for axes, (measure, kinds) in zip(every, shown.items()):
        for kind, runs in kinds.items():
            at = sorted(set.intersection(*map(set, runs)))
            values = np.array([[run[step] for step in at] for run in runs])
            for row in values if len(runs) > 1 else ():
                axes.plot(at, row, color=CHAINS[kind], linewidth=0.6)
            axes.plot(at, values.mean(0), "o-", color=CHAINS[kind], markersize=4, label=kind)
        axes.axhline(0, color="#555555", linewidth=0.8)
        if measure != "gain":
            axes.set_ylim(-0.05, 1.05)
        axes.set_xlim(-0.2, max(max(run) for kinds in shown.values() for runs in kinds.values() for run in runs) + 0.2)
        axes.set_title(PANELS[measure], loc="left", fontsize=SIZE)
    every[0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, handletextpad=0.2)
    every[-1].set_xlabel("steps of the chain that are shown")
    return figure
