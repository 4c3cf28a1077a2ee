"""The figure of a sweep over cells: every run is a point in the row of its cell."""

from __future__ import annotations

from pipeline.plots.cells import CellRun, cells
from pipeline.plots.style import HUES


def test_every_run_is_a_point_in_its_row_and_what_was_not_reached_a_triangle() -> None:
    runs = [CellRun("a", "plain", 100, 900), CellRun("a", "other", 50, 900), CellRun("a", "plain", 120, 900)]
    runs += [CellRun("b", "plain", None, 900), CellRun("b", "other", 70, 900)]
    axes = cells("steps", runs).axes[0]
    drawn = {
        (line.get_color(), line.get_marker(), float(x), round(float(y)))
        for line in axes.lines
        for x, y in zip(line.get_xdata(), line.get_ydata())
    }
    assert drawn == {
        (HUES[0], "o", 100, 0), (HUES[0], "o", 120, 0), (HUES[0], "^", 900, 1), (HUES[1], "o", 50, 0),
        (HUES[1], "o", 70, 1),
    }  # fmt: skip
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first cell is on top
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["plain", "other", "not by then"]
