"""When a measure has moved, the three criteria, and the law of the delay, on numbers worked out by hand."""

from __future__ import annotations

import math
from array import array

import pytest

from pipeline.claims.grokking_predictors import delay_error, leap, share_before, spread, turn
from pipeline.runs.metrics import Series


def series(*values: float) -> Series:
    return Series(array("q", range(0, 10 * len(values), 10)), array("d", values))


def test_a_turn_is_counted_from_fitting_and_from_the_peak_so_far() -> None:
    falls = series(9, 1, 2, 4, 3.9, 3.7)
    assert turn(falls, 10, -0.05) == 50 and turn(falls, 10, -0.5) is None
    assert turn(falls, 0, -0.05) == 10 and turn(falls, None, -0.05) is None
    assert turn(series(5, 2, 1, 1.04, 1.05), 10, 0.05) == 40
    assert turn(series(1, 1, 1), 0, 0.0) is None


def test_a_leap_is_above_ten_medians_and_above_twenty() -> None:
    assert leap(series(1, 3, 2, 20.5, 21), 10) == 30
    assert leap(series(1, 1, 1, 19, 21), 10) == 40
    assert leap(series(1, 3, 2, 20, 21), None) is None and leap(series(3, 3, 3, 29), 0) is None


def test_the_criteria() -> None:
    runs = [{"x": 50.0, "grok_step": 100.0}, {"x": 180.0, "grok_step": 200.0}, {"x": 300.0, "grok_step": 300.0}]
    assert share_before("x", runs) == pytest.approx(2 / 3)
    # 0.5, 0.9 and 1: mean 0.8, standard deviation sqrt((0.09 + 0.01 + 0.04) / 3).
    assert spread("x", runs) == pytest.approx(math.sqrt(0.14 / 3) / 0.8)
    missed = [*runs, {"x": None, "grok_step": 90.0}, {"x": 1.0, "grok_step": None}]
    assert share_before("x", missed) == 0.5 and spread("x", missed) is None
    assert share_before("x", [{"x": 1.0, "grok_step": None}]) is None


def test_the_law_is_fitted_on_the_first_run_and_says_the_others() -> None:
    def run(pace: float, fit: float, gen: float | None, at_fit: float, at_gen: float = 5.0) -> dict[str, float | None]:
        return {"pace": pace, "fit_step": fit, "gen_step": gen, "norm_at_fit": at_fit, "norm_at_gen": at_gen}

    runs = [run(1.0, 100, 300, 10), run(2.0, 50, 130, 10), run(0.5, 100, 600, 20)]
    # A constant over the pace: 100 where it took 80, 400 where it took 500.
    assert delay_error(runs, of_norms=False) == pytest.approx((20 / 80 + 100 / 500) / 2)
    # With norms, 200 is 2 log 2 / (2 kappa); the third has twice the logarithm: 800 where it took 500.
    assert delay_error(runs, of_norms=True) == pytest.approx((20 / 80 + 300 / 500) / 2)
    assert delay_error([*runs, run(1.0, 100, None, 10)], of_norms=False) is None
    assert delay_error(runs[:1], of_norms=False) is None
    assert delay_error([run(1.0, 100, 300, 5), *runs], of_norms=True) is None  # nothing to fit on
