"""What figures are made of: scales, thinned curves, words that keep apart, pictures of a size."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from pipeline.plots.axes import StepScale, thinned
from pipeline.plots.style import LEFT, WIDE, Mark, label_margin, mark_margin, place_marks, spread
from tests.plots.test_training import series


@given(st.integers(0, 6), st.integers(1, 10**7), st.lists(st.integers(0, 10**7), min_size=2, max_size=30))
@settings(deadline=None)
def test_the_scale_of_steps_is_that_of_the_axis(power: int, last: int, steps: list[int]) -> None:
    scale = StepScale(min(10**power, 10 ** int(math.log10(last))), last)
    axes = Figure().add_subplot()
    scale.apply(axes)
    places = sorted({step for step in steps if step <= last})
    drawn = axes.transAxes.inverted().transform(axes.transData.transform([(step, 0.0) for step in places or [0]]))
    assert scale.position(places or [0]) == pytest.approx(drawn[:, 0], abs=1e-6)
    assert {0.0, 1.0} == {round(float(scale.position(step)), 9) for step in (0, last)}


@pytest.mark.parametrize(
    ("last", "rises", "start"),
    [(2000, 60, 10), (2000, 1, 1), (2000, 1900, 100), (1_500_000, 2000, 1000), (5, 5, 1), (0, 1, 1), (9, 1, 1)],
)
def test_the_log_scale_begins_before_anything_is_learned(last: int, rises: int, start: int) -> None:
    match = series([0, *range(1, last + 1)], [0.0, *(0.5 if step >= rises else 0.05 for step in range(1, last + 1))])
    assert StepScale.over(last, [match]) == StepScale(start, max(last, 1))


@given(st.lists(st.floats(-1, 1) | st.just(math.nan), min_size=1, max_size=3000), st.integers(1, 50))
@settings(deadline=None, max_examples=50)
def test_thinning_keeps_ends_and_extremes_of_every_column(values: list[float], columns: int) -> None:
    scale = StepScale(10, max(len(values) - 1, 1))
    steps, kept = thinned(series(range(len(values)), values), scale, columns)
    assert len(steps) <= max(4 * columns, 4 * (columns + 1)) and (np.diff(steps) > 0).all()
    assert steps[0] == 0 and steps[-1] == len(values) - 1
    assert np.isnan(kept).any() == any(map(math.isnan, values))
    column = (scale.position(range(len(values))) * columns).astype(int)
    for number in set(column):
        here = np.asarray(values)[column == number]
        if not np.isnan(here).any():
            left = kept[(scale.position(steps) * columns).astype(int) == number]
            assert (left.min(), left.max()) == (here.min(), here.max())


@given(st.lists(st.floats(0, 3), max_size=20), st.floats(0.05, 0.15))
def test_spreading_keeps_the_order_the_distance_and_the_top(wanted: list[float], gap: float) -> None:
    wanted = sorted(wanted)
    places = spread(wanted, [gap] * len(wanted[1:]), 0.0, 3.0)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(places)) and max(places, default=0) <= 3.0
    if all(b - a >= gap for a, b in pairwise(wanted)):
        assert places == pytest.approx(wanted)


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
@settings(deadline=None)
def test_words_at_marks_never_overlap_nor_leave_the_figure(last: int, one: int, other: int) -> None:
    first, second = sorted((min(one, last), min(other, last)))
    marks = [Mark(first, f"fits at {first:,}", "k"), Mark(second, f"generalizes at {second:,}", "k")]
    scale = StepScale.over(last, [])
    right = max(label_margin(["train"]), mark_margin(marks, scale))
    placed = place_marks(marks, scale, right)
    for place in placed:
        assert place.left >= -LEFT and place.right <= WIDE - LEFT
    assert placed[1].left > float(scale.position(second)) * (WIDE - LEFT - right)  # so an arrow fits between
    if placed[0].row == placed[1].row:
        assert placed[0].right < placed[1].left or placed[1].right < placed[0].left
