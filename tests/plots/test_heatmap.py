"""Heat maps by layer and position, still and moving."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pipeline.plots.heatmap import Grids, _ticks, grids, heat_maps, shown_steps
from pipeline.plots.style import GREY, STYLE, Mark
from pipeline.report import player as moving


def table(steps: tuple[int, ...] = (0, 3)) -> pa.Table:
    rows = [
        {"step": s, "layer": k, "position": p, "place": "abcd"[p], "target": t, "mrr": (s + k + p) / 10}
        for s in steps
        for k in range(3)
        for p in range(4)
        for t in ("answer", "bridge")
    ]
    return pa.Table.from_pylist(rows)


def found(steps: tuple[int, ...] = (0, 3)) -> Grids:
    return grids(table(steps), "mrr", "layer", "position", "target", "place")


def test_every_value_is_drawn_in_its_place() -> None:
    figure = heat_maps(found())
    images = [axes.get_images()[0] for axes in figure.axes if axes.get_images()]
    assert len(images) == 4  # two targets, two steps
    expected = (np.arange(3)[:, None] + np.arange(4)) / 10
    for image, step in zip(images, (0, 3, 0, 3)):
        np.testing.assert_allclose(image.get_array(), expected + step / 10)
        assert image.get_clim() == (0, 1) and image.origin == "lower"
    assert [axes.get_title() for axes in figure.axes[:2]] == ["step 0", "3"]
    assert [text.get_text() for text in figure.texts] == ["answer", "bridge"]
    assert [label.get_text() for label in figure.axes[2].get_xticklabels()] == list("abcd")
    signed = heat_maps(found(), signed=True)
    assert signed.axes[0].get_images()[0].get_clim() == (-1, 1)


def changing(values: list[float], steps: list[int]) -> Grids:
    return Grids(np.array(values)[:, None, None, None], steps, [""], ["0"], ["0"])


def test_shown_steps_are_those_at_marks_and_those_where_something_changes() -> None:
    assert shown_steps(changing([0, 1], [0, 5])) == [0, 5]
    steps = [0, 1, 2, 4, 8, 16, 32, 64, 100, 200, 300, 400, 500]
    late = shown_steps(changing([0.0] * 8 + [0.1, 0.4, 0.8, 0.9, 1.0], steps))
    assert len(late) == 6 and late[0] == 0 and late[-1] == 500 and {200, 300} <= set(late)
    marked = shown_steps(changing([0.0] * 13, steps), [Mark(16, "fits at 16", GREY), Mark(310, "groks at 310", GREY)])
    assert len(marked) == 6 and {0, 16, 300, 500} <= set(marked)


def test_a_mark_stands_over_its_step() -> None:
    figure = heat_maps(found((0, 3)), marks=[Mark(3, "fits at 3", GREY)])
    assert [axes.get_title() for axes in figure.axes[:2]] == ["step 0", "fits at 3"]


@pytest.mark.parametrize("columns", [1, 3, 40])
@pytest.mark.parametrize("rows", [1, 12, 48])
def test_labels_that_have_room_are_drawn_within_the_figure(rows: int, columns: int) -> None:
    names = [f"place {i}" for i in range(columns)]
    shape = (3, 2, rows, columns)
    figure = heat_maps(Grids(np.zeros(shape), [0, 10, 1000], ["one", "two"], [str(i) for i in range(rows)], names))
    canvas = FigureCanvasAgg(figure)
    with rc_context(STYLE):
        canvas.draw()
    width, height = canvas.get_width_height()
    for axes in figure.axes:
        for label in [*axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label, axes.yaxis.label, axes.title]:
            if label.get_text() and label.get_visible():
                box = label.get_window_extent()
                assert box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1, label


def test_what_moves_has_every_value_of_every_step() -> None:
    values = found((0, 3, 9)).values
    values[0, 1, 2, 3] = np.nan
    page = moving.as_html(values, [0, 3, 9], ["answer", "<b>"], ["0", "1", "2"], list("abcd"), ("layer", "at"), False)
    data = json.loads(re.findall(r"json\">(.*?)</script>", page)[0])
    assert data["steps"] == [0, 3, 9] and [len(frame) for frame in data["values"]] == [24] * 3
    assert data["values"][0][23] is None and data["values"][1][:5] == [30, 40, 50, 60, 40]
    assert max(value for frame in data["values"] for value in frame if value is not None) == 100
    cells = re.findall(r'data-at="(.*?)"', page)
    assert cells[0] == "answer layer 0, at a" and cells[23] == "&lt;b&gt; layer 2, at d" and len(cells) == 24
    assert 'max="2" value="2"' in page and "<b>" not in page and "http" not in page


def test_the_mlp_beside_many_heads_keeps_its_name() -> None:
    labels = [*map(str, range(12)), "m"]
    for width in (0.3, 1.0, 1.9, 5.0):
        places, named = _ticks(labels, width, False)
        assert places[-1] == 12 and named == [labels[place] for place in places]
        gaps = np.diff(places)
        assert len({*gaps[:-1].tolist()}) <= 1 and (len(gaps) < 2 or gaps[-1] >= gaps[0])
    assert _ticks(labels[:-1], 1.0, False)[0][-1] < 12


@pytest.mark.parametrize(("panels", "columns"), [(1, 1), (2, 3), (1, 13), (4, 20)])
def test_what_moves_is_as_wide_as_the_page_where_it_has_columns_for_that(panels: int, columns: int) -> None:
    names = [str(i) for i in range(columns)]
    page = moving.as_html(np.zeros((2, panels, 1, columns)), [0, 1], ["p"] * panels, ["0"], names, ("a", "b"), False)
    (width,) = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ', page))
    cells = [(float(x), float(wide)) for x, wide in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', page)]
    assert len(cells) == panels * columns and all(x + wide <= width + 0.1 for x, wide in cells)
    ordered = sorted(cells)
    assert all(x + wide <= other + 0.1 for (x, wide), (other, _) in pairwise(ordered))
    assert (650 <= width <= 701) == ((panels, columns) in ((2, 3), (1, 13)))
