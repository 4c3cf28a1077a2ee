"""What all figures share: type and colours, curves, marked steps, labels beside curves, files of bytes.

Lengths are in inches unless said otherwise. Places are computed and not left to a layout engine: the panels of a report
then lie exactly above each other, and the same data gives the same bytes.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.plots.axes import FAINT, FONT, SIZE, StepScale, axes_size, text_width, thinned
from pipeline.runs.metrics import Series

INK = "#222222"
WIDE, NARROW = 7.0, 3.9  # of a figure on a page, and on one that is as narrow as a telephone
LEFT, BOTTOM = 0.62, 0.5  # of the margins that hold the labels of its axes
TITLE, ROW = 0.16, 0.19  # a line of a title, and of names below each other
LETTERS = 16  # of a line of a label on a narrow page
SWATCH = 0.42  # from the end of a curve to its label: a connector, and a piece of the line
STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": ["sans-serif"],
    "font.sans-serif": [FONT],
    "font.size": SIZE,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",  # text stays text: it can be searched, and has the font of the page
    "svg.hashsalt": "groklab",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}
# Colours that the colour-blind can tell apart (Okabe and Ito), without their yellow, which white paper swallows.
HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
GREY = "#555555"


Drawn = TypeVar("Drawn")
_WIDTH = ContextVar("width", default=WIDE)


def page_width() -> float:
    """The width of figures: WIDE, or NARROW where they are drawn for a narrow page."""
    return _WIDTH.get()


@contextmanager
def narrow_page() -> Iterator[None]:
    """Figures that are drawn meanwhile are for a narrow page."""
    before = _WIDTH.set(NARROW)
    try:
        yield
    finally:
        _WIDTH.reset(before)


def on_both(draw: Callable[[], Drawn]) -> tuple[Drawn, Drawn]:
    """What is drawn for a wide page, and for a narrow one."""
    wide = draw()
    with narrow_page():
        return wide, draw()


def is_narrow() -> bool:
    return page_width() < WIDE


def every_nth(count: int, most: int) -> int:
    """Each how manyth of so many labels stands below an axis where at most `most` have room on a wide page."""
    return -(-count // max(int(most * page_width() / WIDE), 1))


class Pen(NamedTuple):
    """How a curve is drawn; widths in points."""

    colour: str
    width: float = 2.0
    dashes: Any = "-"


class Line(NamedTuple):
    label: str
    series: Series
    pen: Pen


class Mark(NamedTuple):
    """A step with words above the axes."""

    step: int
    text: str
    colour: str


class Placed(NamedTuple):
    """Where the words of a mark go: from `left` to `right`, measured from the axes' left side, in a row above them."""

    mark: Mark
    left: float
    right: float
    row: int


def panels(
    heights: Sequence[float],
    right: float,
    top: float = 0.15,
    left: float = LEFT,
    gap: float = 0.34,
    bottom: float = BOTTOM,
) -> tuple[Figure, list[Axes]]:
    """A figure with axes of these heights below each other, and room around them; `bottom` is below the last."""
    if is_narrow():  # where titles can take a second line
        top, gap = top + TITLE, gap + TITLE
    width, height = page_width(), top + sum(heights) + gap * (len(heights) - 1) + bottom
    figure = Figure(figsize=(width, height))
    found, y = [], height - top
    for tall in heights:
        y -= tall
        found.append(figure.add_axes((left / width, y / height, (width - left - right) / width, tall / height)))
        y -= gap
    return figure, found


def wrap_titles(figure: Figure) -> None:
    """Break titles of panels that are longer than the figure is wide."""
    width = figure.get_figwidth()
    for axes in figure.axes:
        title = axes.get_title(loc="left")
        room = width - axes.get_position().x0 * width
        if (wide := text_width(title)) > room:
            letters = int(len(title) * room / wide) - 1
            axes.set_title(textwrap.fill(title, letters), loc="left", fontsize=SIZE)


def draw(axes: Axes, line: Line, scale: StepScale) -> None:
    """A curve, interrupted where a value is not finite; a point that stands alone is a dot."""
    steps, values = thinned(line.series, scale)
    pen = line.pen
    look = {"linestyle": pen.dashes, "color": pen.colour, "linewidth": pen.width, "label": line.label}
    axes.plot(steps, values, **look, clip_on=False, zorder=2 + pen.width)
    shown = np.pad(np.isfinite(values), 1)
    alone = shown[1:-1] & ~shown[:-2] & ~shown[2:]
    axes.plot(steps[alone], values[alone], "o", color=pen.colour, markersize=4, clip_on=False)


def label_ends(axes: Axes, lines: Sequence[Line], scale: StepScale, size: float = SIZE) -> None:
    """Names each curve to the right of the axes, at the height of its end, beside a piece of its line.

    A connector leads from the curve to its name, unless it ends long before the axis does; then its end is a dot.
    """
    width, height = axes_size(axes)
    axes.get_ylim()  # settles the limits before places are computed from them
    ends = []
    for line in reversed(lines):  # of curves that end together, the first is named on top
        steps, values = (np.asarray(part, np.float64) for part in line.series)
        finite = np.flatnonzero(np.isfinite(values) & ((values > 0) | (axes.get_yscale() != "log")))
        if len(finite):
            x, y = steps[finite[-1]], values[finite[-1]]
            ends.append((axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[1] * height, x, y, line))
    ends.sort(key=lambda end: end[0])
    names = [_broken(end[3].label) for end in ends]
    line_height = 1.35 * size / 72
    tall = [line_height * len(name.splitlines()) for name in names]
    gaps = [(one + other) / 2 for one, other in pairwise(tall)]
    places = spread([end[0] for end in ends], gaps, 0.0, height - tall[-1] / 2 if tall else height)
    for (at, x, y, line), place, name in zip(ends, places, names):
        pen = line.pen
        before = float(1 - scale.position(x)) * width
        if before < 0.4:
            _stroke(axes, [(0.03 - before, at), (0.13, place)], Pen(pen.colour, 0.8))
        else:
            axes.plot([x], [y], "o", color=pen.colour, markersize=pen.width + 2, clip_on=False, zorder=5)
        _stroke(axes, [(0.13, place), (SWATCH - 0.05, place)], pen)
        look: Any = {"va": "center", "fontsize": size, "linespacing": 1.1}
        axes.text(1 + SWATCH / width, place / height, name, transform=axes.transAxes, **look)


def name_below(axes: Axes, lines: Sequence[Line], size: float = SIZE) -> None:
    """Names each curve below the axes, in a line of ROW, where names are too long to stand beside them."""
    width, height = axes_size(axes)
    left = -axes.get_position().x0 * page_width() + 0.08
    for i, line in enumerate(lines):
        place = -BOTTOM - ROW * (i + 0.5)
        _stroke(axes, [(left - width, place), (left - width + 0.3, place)], line.pen)
        at = (left + 0.38) / width, place / height
        axes.text(*at, line.label, transform=axes.transAxes, va="center", fontsize=size)


def _stroke(axes: Axes, points: Sequence[tuple[float, float]], pen: Pen) -> None:
    """A line right of the axes, from points (right of their side, above their foot)."""
    width, height = axes_size(axes)
    xs, ys = zip(*((1 + x / width, y / height) for x, y in points))
    axes.plot(
        xs, ys, linestyle=pen.dashes, color=pen.colour, linewidth=pen.width, transform=axes.transAxes, clip_on=False
    )


def spread(wanted: Sequence[float], gaps: Sequence[float], low: float, high: float) -> list[float]:
    """Ascending places moved as little upwards, then downwards, as it takes to lie `gaps` apart within low and high."""
    places: list[float] = []
    for i, place in enumerate(wanted):
        places.append(max(place, places[-1] + gaps[i - 1] if places else low))
    for i, place in reversed(list(enumerate(places))):
        places[i] = min(place, high if i == len(places) - 1 else places[i + 1] - gaps[i])
    return places


def label_margin(labels: Iterable[str], size: float = SIZE) -> float:
    """The room that labels need to the right of the axes."""
    parts = [part for label in labels for part in (_broken(label).splitlines() or [""])]
    return SWATCH + max(text_width(part, size) for part in parts) + 0.08


def _broken(label: str) -> str:
    """A label as it stands beside a curve: on a narrow page in several lines."""
    return textwrap.fill(label, LETTERS, break_long_words=False) if is_narrow() else label


def mark_margin(marks: Sequence[Mark], scale: StepScale) -> float:
    """The room to the right of the axes with which the words of the last mark can begin at its line."""
    if not marks:
        return 0.0
    most = page_width() - LEFT
    return most - (most - 0.1 - text_width(marks[-1].text)) / max(float(scale.position(marks[-1].step)), 0.5)


def place_marks(marks: Sequence[Mark], scale: StepScale, right: float) -> list[Placed]:
    """The words of at most two marks, in the order of their steps: away from each other, or in two rows.

    Words stay on the figure, which has `right` beside the axes.
    """
    width = page_width() - LEFT - right
    placed: list[Placed] = []
    for mark in marks:
        x, wide = float(scale.position(mark.step)) * width, text_width(mark.text)
        left, after = x - 0.06 - wide, x + 0.06
        before = left >= -LEFT + 0.03
        fits_after = after + wide <= width + right - 0.03
        start = (after if fits_after else left) if placed else (left if before else after)
        overlaps = bool(placed) and start < placed[0].right + 0.1 and placed[0].left < start + wide + 0.1
        placed.append(Placed(mark, start, start + wide, int(overlaps)))
    return placed


def mark_steps(axes: Axes, marks: Sequence[Mark], tinted: bool) -> None:
    """A line at each marked step, and a tint between the first and the last of them."""
    for mark in marks:
        axes.axvline(mark.step, color=mark.colour, linewidth=1, dashes=(4, 2), zorder=1.5)
    if tinted:
        axes.axvspan(marks[0].step, marks[-1].step, color=marks[-1].colour, alpha=0.07, linewidth=0, zorder=0.5)


def png(figure: Figure) -> bytes:
    with rc_context(STYLE), io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=220, facecolor="white", metadata={"Software": None})
        return file.getvalue()


def svg(figure: Figure) -> bytes:
    """Vector graphics without a background, in sizes of points."""
    with rc_context(STYLE), io.BytesIO() as file:
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
        return file.getvalue()


def pdf(figure: Figure) -> bytes:
    """The same for a paper: text stays text, and nothing says when it was made."""
    with rc_context({**STYLE, "pdf.fonttype": 42}), io.BytesIO() as file:
        figure.savefig(file, format="pdf", metadata=dict.fromkeys(("Creator", "Producer", "CreationDate")))
        return file.getvalue()
