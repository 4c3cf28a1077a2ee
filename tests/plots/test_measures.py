"""Bars of frequencies and their names."""

from __future__ import annotations

from array import array
from itertools import combinations

import pyarrow as pa
import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pipeline.plots.measures import Content, Curves, spectrum
from pipeline.plots.style import STYLE
from pipeline.runs.metrics import Series


@pytest.mark.parametrize("keys", [[5, 11, 18, 20, 40, 41, 42, 43, 44], [1, 2, 47, 48], list(range(1, 49, 2)), [7]])
def test_names_of_bars_do_not_touch_and_stay_in_the_figure(keys: list[int]) -> None:
    rows = [
        {"measure": measure, "frequency": k, "value": (0.05 + 0.01 * ((7 * k) % 5)) if k in keys else 0.01}
        for measure in ("embedding", "neurons", "logits")
        for k in range(1, 49)
    ]
    figure = spectrum(pa.Table.from_pylist(rows), keys)
    canvas = FigureCanvasAgg(figure)
    with rc_context(STYLE):
        canvas.draw()
    for axes in figure.axes:
        boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
        assert boxes.keys() == {str(k) for k in keys}
        assert not any(one.overlaps(other) for one, other in combinations(boxes.values(), 2))
        assert all(
            box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height for box in boxes.values()
        )


def test_panels_hold_their_curves_also_below_zero() -> None:
    curves = {
        "above": Series(array("q", [0, 10]), array("d", [0.1, 0.6])),
        "below": Series(array("q", [0, 10]), array("d", [0.1, -0.3])),
    }
    (axes,) = Curves([Content("smoothness", curves)], [], [1.0]).axes
    low, high = axes.get_ylim()
    assert low < -0.3 and high > 0.6
