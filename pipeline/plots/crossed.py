"""Figure of a sweep over two keys: how many steps it took, cell by cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from pipeline.plots.axes import SIZE, text_width
from pipeline.plots.heatmap import MISSING
from pipeline.plots.style import STYLE, page_width

PANELS: Mapping[str, str] = {"fits": "fit_step", "generalizes": "gen_step", "groks": "grok_step"}
SHADES = 40  # few enough that the scale is drawn and not a picture
GAP, ROW, SCALE = 0.14, 0.36, 0.75  # between panels, of a row of cells, and of what stands right of them


class CrossedRun(NamedTuple):
    """A run in the cell of two values: when it fitted, generalized and grokked, and its last step."""

    row: str
    column: str
    fit_step: int | None
    gen_step: int | None
    grok_step: int | None
    last_step: int


class Cell(NamedTuple):
    """The mean over the runs of a cell that came so far, and the words in it."""

    value: float | None
    words: str


@rc_context(STYLE)
def crossed(keys: tuple[str, str], rows: Sequence[str], columns: Sequence[str], runs: Sequence[CrossedRun]) -> Figure:
    """Steps to fit, to generalize and to grok over the values of two keys, one heat map each, with one scale.

    Args:
        keys: What rows and columns are.
        rows: Values of the first key, from the bottom up.
        columns: Values of the second key, from left to right.
        runs: Of one cell those that differ in their seed.
    """
    page = page_width()
    cells = {title: _cells(name, rows, columns, runs) for title, name in PANELS.items()}
    found = [cell.value for panel in cells.values() for line in panel for cell in line if cell.value is not None]
    norm = LogNorm(min(found, default=1), max([*found, min(found, default=1) * 1.01]))
    left = 0.42 + max(map(text_width, rows))
    words = [part for panel in cells.values() for line in panel for cell in line for part in cell.words.split("\n")]
    least = max(text_width(text) for text in (*words, *columns)) + 0.08  # of a cell that has words
    beside = 3 * least * len(columns) + 2 * GAP <= page - left - SCALE
    across = 3 if beside else 1
    panel = (page - left - SCALE - GAP * (across - 1)) / across
    if beside or len(columns) < 4:
        panel = min(panel, 1.1 * len(columns) * max(least, 0.5))
    worded = least <= panel / len(columns) + 0.08
    tall, top, bottom = ROW * len(rows), 0.3, 0.5
    height = top + bottom + tall if beside else top + bottom + 3 * tall + 2 * 0.3
    figure = Figure(figsize=(page, height))
    for place, (title, grid) in enumerate(cells.items()):
        x = left + place * (panel + GAP) * beside
        y = bottom if beside else height - top - (place + 1) * tall - place * 0.3
        axes = figure.add_axes((x / page, y / height, panel / page, tall / height))
        _heat(axes, grid, norm, worded)
        axes.set_title(title, loc="left", fontsize=SIZE, pad=4)
        axes.set_yticks([i + 0.5 for i in range(len(rows))], rows)
        every = math.ceil((max(map(text_width, columns)) + 0.06) / (panel / len(columns)))
        axes.set_xticks([i + 0.5 for i in range(0, len(columns), every)], columns[::every])
        lowest = beside or place == 2
        axes.tick_params(length=0, labelleft=not (beside and place), labelbottom=lowest)
        if lowest and not (beside and place):
            axes.set_xlabel(keys[1], loc="left")
        if place == (0 if beside else 1):
            figure.text(0.03 / page, (y + tall / 2) / height, keys[0], rotation=90, ha="left", va="center")
    edge = left + across * (panel + GAP)
    scale = figure.add_axes((edge / page, bottom / height, 0.1 / page, (height - top - bottom) / height))
    bar = figure.colorbar(axes.collections[0], cax=scale)
    bar.outline.set_visible(False)
    ticks = _ticks(norm, (height - top - bottom) / 0.2)
    scale.yaxis.set_major_locator(FixedLocator(ticks))
    scale.yaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    scale.yaxis.set_minor_formatter(NullFormatter())
    scale.yaxis.set_minor_locator(FixedLocator([]))
    scale.tick_params(length=2)
    scale.grid(False)
    figure.text(edge / page, (height - top + 0.08) / height, "step")
    return figure


def _cells(name: str, rows: Sequence[str], columns: Sequence[str], runs: Sequence[CrossedRun]) -> list[list[Cell]]:
    at: dict[tuple[str, str], list[CrossedRun]] = {}
    for run in runs:
        at.setdefault((run.row, run.column), []).append(run)
    return [[_cell(name, at.get((row, column), [])) for column in columns] for row in rows]


def _cell(name: str, runs: Sequence[CrossedRun]) -> Cell:
    """The mean of what the runs of a cell reached, and how many did; where none did, how far they went."""
    steps = [step for run in runs if (step := getattr(run, name)) is not None]
    if not runs:
        return Cell(None, "no run")
    if steps:
        few = f"\n{len(steps)} of {len(runs)}" if len(steps) < len(runs) else ""
        return Cell(max(fmean(steps), 1.0), f"{fmean(steps):,.0f}{few}")
    if name == "grok_step" and any(run.gen_step is not None for run in runs):
        return Cell(None, "no delay")
    return Cell(None, f"not by\n{max(run.last_step for run in runs):,}")


def _heat(axes: Axes, grid: Sequence[Sequence[Cell]], norm: LogNorm, worded: bool) -> None:
    """Cells in the colours of their steps; grey where it was not reached."""
    values = np.array([[np.nan if cell.value is None else cell.value for cell in line] for line in grid])
    # One hue, which a page in the dark turns around, without the palest, which would look like what was not reached.
    colours = ListedColormap(colormaps["Blues_r"](np.linspace(0, 0.8, SHADES))).with_extremes(bad=MISSING)
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=colours, norm=norm, edgecolors="white", linewidth=0.5)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    for y, line in enumerate(grid):
        for x, cell in enumerate(line):
            is_dark = cell.value is not None and float(norm(cell.value)) < 0.5
            look: Any = {"ha": "center", "va": "center", "linespacing": 1.0, "fontsize": SIZE - 1}
            if worded:
                axes.text(x + 0.5, y + 0.5, cell.words, color="white" if is_dark else "#222222", **look)


def _ticks(norm: LogNorm, most: float) -> list[float]:
    """Round steps within a scale, and its two ends where there are too few."""
    low, high = float(norm.vmin or 1), float(norm.vmax or 1)
    for factors in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1,)):
        ticks = [tick for i in range(10) for factor in factors if low <= (tick := factor * 10.0**i) <= high]
        if len(ticks) <= most:
            break
    return ticks if len(ticks) > 1 else [low, high]
