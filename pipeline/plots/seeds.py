"""Figures of several runs: over seeds, and over the values of a key."""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FormatStrFormatter, FuncFormatter, LogLocator, NullFormatter

from pipeline.plots.axes import (
    SIZE,
    Numbers,
    StepScale,
    apart,
    match_axis,
)
from pipeline.plots.style import (
    BOTTOM,
    GREY,
    HUES,
    ROW,
    STYLE,
    Line,
    Pen,
    draw,
    is_narrow,
    label_ends,
    label_margin,
    name_below,
    panels,
)
from pipeline.plots.training import FIT_PEN, GROK_PEN, LONGEST
from pipeline.runs.metrics import Series
from pipeline.utils.draws import Draws

NOT_YET = "not by then"
TINTED, SURE, CROWD = 3, 5, 10  # seeds from which there is a tint, it is an interval, and single runs are not drawn
BESIDE, MOST_BESIDE = 1.5, 10  # inches and number of names that stand beside curves on a narrow page
DRAWN = 1000  # samples of a bootstrap


class Group(NamedTuple):
    """Runs that differ in their seed alone, or one run: the series of each, drawn as one."""

    label: str
    runs: Sequence[Series]
    colour: str


@rc_context(STYLE)
def comparison(groups: Sequence[Group], split: str | None, scale: StepScale) -> Figure:
    """Exact match in several runs on one axis: of one split, or (None) of one that the labels name.

    Of runs that differ in their seed alone, thick the mean, as far as all of them go, and by their number what
    `seeds_words` says: each one thin, and their range or an interval of the mean.
    """
    size = SIZE if len(groups) <= 12 else SIZE - 1
    labels = [group.label if len(group.label) <= LONGEST else f"{group.label[:LONGEST]}…" for group in groups]
    right, bottom, tall = label_margin(labels, size), BOTTOM, max(3.1, 0.16 * len(groups))
    below = is_narrow() and (right > BESIDE or len(groups) > MOST_BESIDE)
    if below:
        right, bottom, tall = 0.15, BOTTOM + ROW * len(groups) + 0.08, 2.6
    figure, (axes,) = panels([tall], right, bottom=bottom)
    match_axis(axes, scale, f"exact match on {split}" if split else "exact match")
    lines = []
    for i, (label, group) in enumerate(zip(labels, groups)):
        pen = Pen(group.colour, 1.8, "-" if len(groups) <= len(HUES) or i % 2 == 0 else (0, (4, 1)))
        mean, low, high = over_seeds(group.runs)
        for run in group.runs if 1 < len(group.runs) < CROWD else ():
            draw(axes, Line("", run, pen._replace(width=0.6)), scale)
        if len(group.runs) >= TINTED:
            axes.fill_between(mean.steps, low, high, color=pen.colour, alpha=0.15, linewidth=0)
        lines.append(Line(label, mean, pen))
        draw(axes, lines[-1], scale)
    if below:
        name_below(axes, lines, size)
    else:
        label_ends(axes, lines, scale, size)
    return figure


def over_seeds(runs: Sequence[Series]) -> tuple[Series, Numbers, Numbers]:
    """The mean over runs at the steps at which all of them were measured, and between what it is tinted there.

    That is the lowest and the highest value, or from five runs on a bootstrap interval of the mean (95 %).
    """
    found = [dict(zip(*run)) for run in runs]
    common = sorted(set.intersection(*map(set, found)))
    values = np.array([[by_step[step] for step in common] for by_step in found])
    mean = Series(array("q", common), array("d", values.mean(axis=0)))
    if len(runs) < SURE:
        return mean, values.min(axis=0), values.max(axis=0)
    drawn = Draws(0, "bootstrap over seeds").below(len(runs), DRAWN, len(runs))
    times = np.stack([(drawn == i).sum(axis=1) for i in range(len(runs))], axis=1)  # how often a sample has each run
    low, high = np.quantile(times @ values / len(runs), [0.025, 0.975], axis=0)
    return mean, low, high


def seeds_words(counts: Collection[int]) -> str:
    """What is drawn of groups of so many runs, in sentences for a caption; nothing where all are single runs."""
    words = "Thick: the mean over seeds, as far as all of them go. " if max(counts) > 1 else ""
    words += "Thin: each seed. " if any(1 < count < CROWD for count in counts) else ""
    ranges, intervals = (any(low <= n < high for n in counts) for low, high in ((TINTED, SURE), (SURE, math.inf)))
    words += "Tinted: " * (ranges or intervals) + "their range" * ranges + ", " * (ranges and intervals)
    words += (f"from {SURE} seeds on " * ranges + "a bootstrap interval of the mean (95 %)") * intervals
    return words.strip() + "." * (ranges or intervals)


class Outcome(NamedTuple):
    """A run in a sweep: the value of the key that is swept, fit and gen step, and the last step."""

    value: float
    fit_step: int | None
    gen_step: int | None
    last_step: int


@rc_context(STYLE)
def sweep(key: str, outcomes: Sequence[Outcome]) -> Figure:
    """Steps to fit and to generalize over a number in the recipe, with lines through the means over seeds.

    An open triangle is a run that had not come so far by its last step; over it no mean is taken.
    """
    names = {"fits": FIT_PEN, "generalizes": GROK_PEN}
    found = [[run.fit_step for run in outcomes], [run.gen_step for run in outcomes]]
    figure, (axes,) = panels([2.6], label_margin([*names, NOT_YET]), top=0.25, left=0.8)
    axes.set_yscale("log")
    values = sorted({run.value for run in outcomes})
    for (name, pen), steps in zip(names.items(), found):
        reached = [(run.value, max(step, 1)) for run, step in zip(outcomes, steps) if step is not None]
        missed = [(run.value, max(run.last_step, 1)) for run, step in zip(outcomes, steps) if step is None]
        whole = [value for value in values if value in dict(reached) and value not in dict(missed)]
        means = [(value, fmean([step for at, step in reached if at == value])) for value in whole]
        _points(axes, means, color=pen.colour, linewidth=1.2)
        _points(axes, reached, color=pen.colour, marker="o", linestyle="", markersize=5, label=name)
        _points(axes, missed, color=pen.colour, marker="^", linestyle="", markersize=6, markerfacecolor="none")
    if None in [*found[0], *found[1]]:
        axes.plot([], [], "^", color=GREY, markersize=6, markerfacecolor="none", label=NOT_YET)
    if values[0] > 0 and values[-1] / values[0] >= 20:
        axes.set_xscale("log")
    axes.margins(0.06, 0.1)
    axes.xaxis.set_major_locator(FixedLocator(apart(axes, values)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(key)
    axes.set_title("training step", loc="left", fontsize=SIZE)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, handletextpad=0.2)
    return figure


def _points(axes: Axes, points: Sequence[tuple[float, float]], **look: Any) -> None:
    axes.plot([x for x, _ in points], [y for _, y in points], **look)


def colours(count: int, ordered: bool) -> list[str]:
    """A colour for each of several runs: along a scale where they are ordered or many, else as different as can be."""
    if not ordered and count <= len(HUES):
        return list(HUES[:count])
    return [to_hex(colormaps["viridis"](0.8 * i / max(count - 1, 1))) for i in range(count)]
