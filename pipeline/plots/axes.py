"""Axes: where steps, exact matches and positive quantities lie, and which of them are labelled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from pipeline.runs.grokking import THRESHOLD
from pipeline.runs.metrics import Series

Numbers = npt.NDArray[np.float64]

FONT = "DejaVu Sans"  # comes with matplotlib, and is so wide that no other font needs more room
SIZE = 9.0  # of type, in points
FAINT = "#dddddd"


@dataclass(frozen=True)
class StepScale:
    """An axis from step 0 to `last`: logarithmic from `start` on, and linear, and short, before it.

    So step 0 has a place, and steps at which nothing happens yet take little of the page. `linear`: all of it is.
    """

    start: int
    last: int
    linear: bool = False

    LINEAR = 0.4  # length of the linear part, in decades

    @classmethod
    def over(cls, last: int, matches: Iterable[Series], linear: bool = False) -> StepScale:
        """The scale of runs of `last` steps: logarithmic from the power of ten before any exact match reaches 0.1."""
        rises = [step for steps, values in matches for step, value in zip(steps, values) if step and value >= 0.1]
        first = min([*rises, max(last // 10, 1)])
        return cls(10 ** int(math.log10(first)), max(last, 1), linear)

    def position(self, steps: npt.ArrayLike) -> Numbers:
        """Where steps lie on the axis, from 0 to 1."""
        at = np.asarray(steps, np.float64)
        if self.linear:
            return at / self.last
        decades = np.where(
            at < self.start, at / self.start * self.LINEAR, self.LINEAR + np.log10(np.maximum(at / self.start, 1))
        )
        end = self.LINEAR + math.log10(max(self.last / self.start, 1))
        return decades / end

    def apply(self, axes: Axes, labelled: bool = True) -> None:
        if self.linear:
            axes.set_xlim(0, self.last)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.xaxis.set_major_formatter(
                FuncFormatter(lambda step, _: f"{step:,.0f}") if labelled else NullFormatter()
            )
            axes.set_xlabel("training step" if labelled else "")
            return
        decades = [self.start * 10**i for i in range(20) if self.start * 10**i <= self.last]
        ticks = [0, *decades] if len(decades) > 1 else sorted({0, *decades, self.last})
        between = [decade * i for decade in decades for i in range(2, 10) if decade * i <= self.last]
        # matplotlib gives the linear part linscale / (1 - 1 / 10) decades.
        axes.set_xscale("symlog", linthresh=self.start, linscale=self.LINEAR * 0.9)
        axes.set_xlim(0, self.last)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(FixedLocator(between))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:,}" for tick in ticks]) if labelled else NullFormatter())
        if labelled:
            axes.set_xlabel(f"training step (log scale{'' if self.start == 1 else f' from {self.start:,}'})")


def thinned(series: Series, scale: StepScale, columns: int = 700) -> tuple[Numbers, Numbers]:
    """Steps and values of at most four points per column of pixels: its first, lowest, highest and last.

    The drawing stays the same (M4, Jugel et al. 2014), and that of a million points stays small. NaN stays where it is.
    """
    steps, values = np.asarray(series.steps, np.float64), np.asarray(series.values, np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    if len(steps) <= 4 * columns:
        return steps, values
    column = (scale.position(steps) * columns).astype(np.int64)
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    ends = np.append(starts[1:], len(steps)) - 1
    by_value = np.lexsort((values, column))  # NaN counts as the highest
    chosen = np.unique(np.concatenate([starts, ends, by_value[starts], by_value[ends]]))
    return steps[chosen], values[chosen]


def match_axis(axes: Axes, scale: StepScale, label: str = "exact match") -> None:
    scale.apply(axes)
    axes.set(ylabel=label, ylim=(-0.02, 1.02), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.axhline(THRESHOLD, color=FAINT, linewidth=0.6, zorder=1)


def quantity_axis(axes: Axes, title: str, shown: Sequence[Series], log: bool) -> None:
    """The axis of a positive quantity: logarithmic, where not all of it is zero, or from zero up."""
    values = np.concatenate([np.asarray(series.values) for series in shown])
    values = values[np.isfinite(values)]
    axes.set_title(title, loc="left", fontsize=9)
    if log and (values > 0).any():
        axes.set_yscale("log", nonpositive="mask")
        low, high = values[values > 0].min(), values.max()
        room = 1.25 if high / low > 4 else 2
        low, high = low / room, high * room
        axes.set_ylim(low, high)
        most = axes_size(axes)[1] / 0.22  # labels that have room
        decades = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        ticks = [10.0**i for i in decades if i % math.ceil(len(decades) / most) == 0]
        if len(decades) < 3:
            ticks = [factor * 10.0**i for i in range(decades.start - 1, decades.stop) for factor in (1, 2, 5)]
        axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
        long = low < 1e-3 or high > 1e5
        axes.yaxis.set_major_formatter(FuncFormatter(_power if long else lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(FixedLocator([]))
    else:
        top = values.max(initial=0.0)
        axes.set_ylim(0, 1.08 * top if top > 0 else 1)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _power(value: float, _: object) -> str:
    """1, and 10⁻⁵ or 2·10⁻⁵."""
    factor, exponent = f"{value:.0e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return factor if int(exponent) == 0 else f"10{raised}" if factor == "1" else f"{factor}·10{raised}"


def apart(axes: Axes, values: Sequence[float]) -> list[float]:
    """Those of ascending values whose labels do not touch."""
    axes.get_xlim()  # settles the limits before places are computed from them
    chosen: list[float] = []
    end = -math.inf
    for value in values:
        at = axes.transAxes.inverted().transform(axes.transData.transform((value, 1)))[0] * axes_size(axes)[0]
        half = text_width(f"{value:g}") / 2 + 0.05
        if at - half >= end:
            chosen.append(value)
            end = at + half
    return chosen


def axes_size(axes: Axes) -> tuple[float, float]:
    """Width and height."""
    figure, box = axes.get_figure(), axes.get_position()
    assert isinstance(figure, Figure)
    return box.width * figure.get_figwidth(), box.height * figure.get_figheight()


def text_width(text: str, size: float = SIZE) -> float:
    """An upper bound: letters that are fitted to pixels can be a little wider."""
    if not text.strip():  # which matplotlib makes no path of
        return 0.0
    path = TextPath((0, 0), text, size=size, prop=FontProperties(family=[FONT]))
    return 1.04 * float(path.get_extents().x1) / 72
