"""Heat maps by layer and position, or head, one for each of some steps: how something forms over training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import colormaps, rc_context
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from pipeline.plots.axes import SIZE, text_width
from pipeline.plots.base import Drawing
from pipeline.plots.findings import of_grids
from pipeline.plots.style import INK, STYLE, Mark, is_narrow, page_width

LEAST, MOST = 3, 6  # steps side by side; fewer than the least are as wide as so many
MISSING = "#e4e4e4"


class Grids(NamedTuple):
    """Values of a table as panels of grids: (S steps, P panels, R rows, C columns), NaN where there is none."""

    values: npt.NDArray[np.float64]
    steps: list[int]
    panels: list[str]
    rows: list[str]
    columns: list[str]


def grids(table: pa.Table, value: str, row: str, column: str, panel: str | None, labels: str | None = None) -> Grids:
    """The grids of a column `value`, by two columns of small whole numbers, `row` and `column`, and one of names.

    `labels` is a column that names the numbers of `column`.
    """
    steps = sorted(pc.unique(table["step"]).to_pylist())
    panels = pc.unique(table[panel]).to_pylist() if panel else [""]
    size = [pc.max(table[name]).as_py() + 1 for name in (row, column)]
    at = [np.searchsorted(steps, table["step"].to_numpy())]
    at.append(
        np.array([panels.index(name) for name in table[panel].to_pylist()]) if panel else np.zeros(len(table), int)
    )
    at += [table[row].to_numpy(), table[column].to_numpy()]
    values = np.full((len(steps), len(panels), *size), np.nan)
    values[tuple(at)] = table[value].to_numpy()
    names = [str(i) for i in range(size[1])]
    if labels:
        for i, name in zip(table[column].to_pylist(), table[labels].to_pylist()):
            names[i] = name
    return Grids(values, steps, panels, [str(i) for i in range(size[0])], names)


def shown_steps(found: Grids, marks: Sequence[Mark] = (), most: int = MOST) -> list[int]:
    """At most six steps: first and last, those at marks, and others such that about as much changes between any two.

    Change is that of all values, and a little for time on a log scale, so that a time of rest is not passed over.
    """
    steps = found.steps
    if len(steps) <= most:
        return steps
    flat = np.nan_to_num(found.values.reshape(len(steps), -1))
    change, time = np.abs(np.diff(flat, axis=0)).sum(axis=1), np.diff(np.log(np.maximum(steps, 0.5)))
    way = np.concatenate([[0.0], np.cumsum(change / max(change.sum(), 1e-300) + 0.3 * time / time.sum())])
    chosen = {0, len(steps) - 1, *(int(np.abs(np.subtract(steps, mark.step)).argmin()) for mark in marks)}
    while len(chosen) < most:
        # The step that is farthest from those that are chosen already.
        gaps = np.abs(way[:, None] - way[sorted(chosen)]).min(axis=1)
        chosen.add(int(gaps.argmax()))
    return [steps[i] for i in sorted(chosen)]


def drawn_grids(
    found: Grids,
    what: str,
    names: tuple[str, str],
    marks: Sequence[Mark] = (),
    signed: bool = False,
    ending: str = "",
) -> Drawing:
    """The grids of some steps side by side, and of all of them as frames; `names` say what rows and columns are."""
    caption = f"{what[0].upper()}{what[1:]}{ending}."
    grids = found._asdict() if len(found.steps) > 1 else {}
    return Drawing(heat_maps(found, names, marks, signed), what, caption, grids, names, signed, of_grids(*found, names))


def colour_map(name: str) -> Colormap:
    """A colour map of matplotlib that is grey where there is no value, also without a background."""
    return colormaps[name].with_extremes(bad=MISSING)


@rc_context(STYLE)
def heat_maps(
    found: Grids, names: tuple[str, str] = ("layer", "position"), marks: Sequence[Mark] = (), signed: bool = False
) -> Figure:
    """A row of heat maps for each panel, a column for each step, the first row of a grid at the bottom.

    Values are in [0, 1], or in [-1, 1] where they are signed; grey is where there is none.
    """
    page = page_width()
    steps, marked = shown_steps(found, marks, LEAST if is_narrow() else MOST), {mark.step: mark for mark in marks}
    rows, columns = len(found.rows), len(found.columns)
    left, gap, name = 0.35 + max(text_width(name) for name in found.rows), 0.12, 0.2 * any(found.panels)
    longest = max(text_width(label) for label in found.columns)
    side = max(len(steps), LEAST)
    cell = (page - left - 0.75 - gap * (side - 1)) / side
    upright = longest > cell / columns - 0.03 and any(len(label) > 2 for label in found.columns)
    top, bottom, between = 0.28 + name, 0.32 + (longest if upright else 0.13), 0.1 + name
    tall = min(max(cell * rows / columns, 0.5), 1.7)
    height = top + bottom + len(found.panels) * tall + (len(found.panels) - 1) * between
    figure = Figure(figsize=(page, height))
    # What lowers the metric when it is corrupted is what the model relies on: blue, as in graphs of circuits.
    colours: Any = {"cmap": colour_map("RdBu_r" if signed else "Blues"), "vmin": -1 if signed else 0, "vmax": 1}
    for line, panel in enumerate(found.panels):
        y = height - top - (line + 1) * tall - line * between
        figure.text(left / page, (y + tall + (0.05 if line else 0.28)) / height, panel, weight="bold")
        for place, step in enumerate(steps):
            x = left + place * (cell + gap)
            axes = figure.add_axes((x / page, y / height, cell / page, tall / height))
            grid = found.values[found.steps.index(step), line]
            image = axes.imshow(grid, origin="lower", aspect="auto", **colours)
            axes.grid(False)
            every = max(-(-rows // max(int(tall / 0.16), 1)), 1)
            axes.set_yticks(range(0, rows, every), found.rows[::every])
            axes.set_xticks(*_ticks(found.columns, cell, upright), rotation=90 if upright else 0)
            axes.tick_params(length=0, labelbottom=line == len(found.panels) - 1, labelleft=place == 0)
            if line == 0:
                title, colour = f"step {step:,}" if place == 0 else f"{step:,}", INK
                if step in marked and text_width(marked[step].text) < cell + gap:
                    title, colour = marked[step].text, marked[step].colour
                axes.set_title(title, fontsize=SIZE, pad=4, color=colour)
            if place == 0:
                axes.set_ylabel(names[0])
                axes.yaxis.set_label_coords(-(left - 0.06) / cell, 0.5)
                axes.yaxis.label.set_verticalalignment("top")
            if line == len(found.panels) - 1:
                axes.set_xlabel(names[1] if place == 0 else "")
    edge = left + len(steps) * (cell + gap)
    scale = figure.add_axes((edge / page, bottom / height, 0.08 / page, min(height - top - bottom, 2) / height))
    figure.colorbar(image, cax=scale)
    scale.tick_params(length=2)
    scale.grid(False)
    return figure


def _ticks(labels: Sequence[str], width: float, upright: bool) -> tuple[list[int], list[str]]:
    """The columns that are named, as many as there is room for."""
    room = 0.14 if upright else max(text_width(label) for label in labels) + 0.03
    last = len(labels) - 1
    every = max(-(-len(labels) // max(int(width / room), 1)), 1)
    places = list(range(0, last + 1, every))
    if not labels[last].isdigit() and places[-1] != last:  # the MLP beside numbered heads
        places = [*(place for place in places if place <= last - every), last]
    return places, [labels[place] for place in places]
