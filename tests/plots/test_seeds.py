"""Figures of several runs: means over seeds, labels that do not touch, and what a sweep has not reached."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pipeline.plots import seeds
from pipeline.plots.axes import StepScale
from pipeline.plots.crossed import CrossedRun, crossed
from pipeline.plots.style import HUES, STYLE
from tests.plots.test_training import STEPS, rising, series


def test_runs_that_differ_in_their_seed_are_averaged_where_all_were_measured() -> None:
    runs = [series([0, 10, 20, 25], [0, 0.2, 0.4, 1]), series([0, 10, 20, 30], [0, 0.4, 0.8, 1])]
    mean, low, high = seeds.over_seeds(runs)
    assert list(mean.steps) == [0, 10, 20] and list(mean.values) == pytest.approx([0, 0.3, 0.6])
    assert list(low) == [0, 0.2, 0.4] and list(high) == [0, 0.4, 0.8]
    figure = seeds.comparison([seeds.Group("2 seeds", runs, HUES[0])], "id", StepScale(1, 30))
    drawn = [line for line in figure.axes[0].lines if line.get_color() == HUES[0] and len(line.get_xdata()) > 2]
    assert [line.get_linewidth() for line in drawn] == [0.6, 0.6, 1.8]
    assert [list(line.get_xdata()) for line in drawn[:2]] == [list(run.steps) for run in runs]


@pytest.mark.parametrize(
    ("count", "thin", "tinted", "said"),
    [
        (1, 0, 0, ""),
        (2, 2, 0, "Thick: the mean over seeds, as far as all of them go. Thin: each seed."),
        (4, 4, 1, "Thin: each seed. Tinted: their range."),
        (6, 6, 1, "Thin: each seed. Tinted: a bootstrap interval of the mean (95 %)."),
        (12, 0, 1, "as far as all of them go. Tinted: a bootstrap interval of the mean (95 %)."),
    ],
)
def test_what_is_drawn_of_seeds_goes_by_their_number(count: int, thin: int, tinted: int, said: str) -> None:
    values = np.random.default_rng(0).random((count, 3))
    runs = [series([0, 10, 20], each.tolist()) for each in values]
    (axes,) = seeds.comparison([seeds.Group("x", runs, HUES[0])], "id", StepScale(1, 20)).axes
    assert len([line for line in axes.lines if line.get_linewidth() == 0.6 and line.get_color() == HUES[0]]) == thin
    assert len(axes.collections) == tinted and seeds.seeds_words([1, count]).endswith(said)
    mean, low, high = seeds.over_seeds(runs)
    assert list(mean.values) == pytest.approx(values.mean(0).tolist())
    if count >= 5:  # about as wide as two standard errors to each side
        errors = values.std(0) / np.sqrt(count)
        np.testing.assert_allclose((high - low) / errors, 4, rtol=0.2)


def test_a_caption_tells_of_groups_of_other_sizes() -> None:
    words = seeds.seeds_words([3, 5])
    assert words.endswith("Tinted: their range, from 5 seeds on a bootstrap interval of the mean (95 %).")


@pytest.mark.parametrize("shape", [(1, 2), (2, 2), (3, 5), (4, 9), (2, 30)])
def test_words_of_crossed_keys_stay_in_their_cells(shape: tuple[int, int]) -> None:
    rows, columns = [f"{i / 10:g}" for i in range(shape[0])], [f"{i / 20:g}" for i in range(shape[1])]
    runs = [
        CrossedRun(row, column, 100, None if i % 3 else 1000 + 100 * i, None, 20_000)
        for i, (row, column) in enumerate(product(rows, columns))
        for _ in range(2)
    ]
    figure = crossed(("weight_decay", "corpus.train_fraction"), rows, columns, runs)
    canvas = FigureCanvasAgg(figure)
    with rc_context(STYLE):
        canvas.draw()
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert len(panels) == 3
    np.testing.assert_array_equal(panels[0].collections[0].get_array(), np.full(shape, 100.0))
    gen = panels[1].collections[0].get_array()
    assert gen[0, 0] == 1000 and gen.mask[0, 1]
    for axes in panels:
        texts = [text.get_window_extent() for text in axes.texts]
        assert len(texts) == (shape[0] * shape[1] if shape[1] < 12 else 0)
        assert not any(one.overlaps(other) for one, other in combinations(texts, 2))
        labels = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_visible()]
        assert not any(one.overlaps(other) for one, other in combinations(labels, 2))
        for box in [*texts, *labels, axes.xaxis.label.get_window_extent()]:
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0 and box.y1 <= figure.bbox.height


@pytest.mark.parametrize("count", [2, 7, 20])
def test_runs_are_told_apart_and_named_without_collisions(count: int) -> None:
    runs = [series(STEPS, rising(100 + 10 * i)) for i in range(count)]
    colours = seeds.colours(count, ordered=False)
    groups = [seeds.Group(f"weight_decay {i}, ratio 18", [run], colours[i]) for i, run in enumerate(runs)]
    figure = seeds.comparison(groups, "id", StepScale.over(2000, runs))
    canvas = FigureCanvasAgg(figure)
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.axes[0].texts]
    assert len(boxes) == count and len(set(colours)) == count
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(box.x1 <= figure.bbox.width for box in boxes)


def test_a_sweep_shows_what_was_reached_and_what_was_not() -> None:
    reached = [
        seeds.Outcome(1.0, 100, 800, 2000),
        seeds.Outcome(1.0, 200, 1000, 2000),
        seeds.Outcome(3.0, 100, 400, 900),
    ]
    missed = [seeds.Outcome(0.1, 100, None, 2000), seeds.Outcome(3.0, 100, None, 900)]
    axes = seeds.sweep("weight_decay", reached + missed).axes[0]
    points = {line.get_marker(): [] for line in axes.lines}
    for line in axes.lines:
        if line.get_color() == HUES[0]:
            points[line.get_marker()] += list(zip(line.get_xdata(), line.get_ydata()))
    assert points["o"] == [(1.0, 800), (1.0, 1000), (3.0, 400)]
    assert points["^"] == [(0.1, 2000), (3.0, 900)]
    assert points["None"] == [(1.0, 900)]  # no mean over 3.0, where a seed is missing
    assert "not by then" in {text.get_text() for text in axes.get_legend().get_texts()}


def test_ticks_of_a_sweep_do_not_touch() -> None:
    outcomes = [seeds.Outcome(0.2 + 0.01 * i, 100, 1000, 2000) for i in range(40)]
    figure = seeds.sweep("corpus.train_fraction", outcomes)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [label.get_window_extent(canvas.get_renderer()) for label in figure.axes[0].get_xticklabels()]
    assert len(boxes) > 5 and not any(one.overlaps(other) for one, other in combinations(boxes, 2))
