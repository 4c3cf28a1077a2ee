"""Intervals over seeds and verdicts, against numbers worked out by hand and by numpy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.claims.base import Found, Interval, Measured, Target, interval, verdict


def test_below_five_seeds_the_interval_is_the_range() -> None:
    assert interval([3.0, 1.0, 2.0]) == Interval(2.0, 1.0, 3.0, 3, 3)
    assert interval([3.0, None, 1.0]) == Interval(2.0, 1.0, 3.0, 2, 3)
    assert interval([None, None]) == Interval(None, None, None, 0, 2)
    assert interval([]) == Interval(None, None, None, 0, 0)


def test_from_five_seeds_on_it_is_a_bootstrap_of_the_median() -> None:
    values = [float(value) for value in np.random.default_rng(0).normal(10, 2, 25)]
    found = interval(values)
    draws = np.random.default_rng(1).choice(values, (20_000, len(values)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    assert found.middle == pytest.approx(np.median(values))
    assert found.low == pytest.approx(low, abs=0.3) and found.high == pytest.approx(high, abs=0.3)
    assert found == interval(list(reversed(values)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], "not run"),
        ([6.0, 7.0], "2 of 3 run"),
        ([6.0, 7.0, 5.0], "holds"),
        ([6.0, 4.0, 5.0], "holds in 2 of 3"),
        ([1.0, 2.0, 3.0], "does not hold"),
        ([None, None, None], "censored"),
        ([6.0, None, 7.0], "holds in 2 of 3, censored in 1"),
        ([1.0, None, 2.0], "does not hold"),
    ],
)
def test_a_verdict_counts_seeds(values: list[float | None], expected: str) -> None:
    assert verdict(Target("gap", "", low=5), values, 3) == expected


def test_bounds_are_said_and_kept() -> None:
    both = Target("x", "", low=0.1, high=0.3)
    assert both.bounds == ">= 0.1 and <= 0.3"
    assert [both.is_met(value) for value in (0.05, 0.1, 0.3, 0.31)] == [False, True, True, False]


def test_a_run_that_did_not_come_there_bounds_how_much_slower_it_is() -> None:
    def runs(*steps: float | None) -> list[Measured]:
        ended: Any = SimpleNamespace(last_step=4000)
        return [Measured(seed, ended, {"known": step}) for seed, step in enumerate(steps)]

    found = Found({"slow": runs(3000.0, None, None, 100.0, None), "fast": runs(1000.0, 1000.0, 4000.0, None)}, 5)
    # The second took four times as many at least; the third is not known to need more; the fifth has no counterpart.
    assert found.slower("known", "slow", "fast", 1.5) == [3.0, 4.0, None, None]
    assert found.slower("known", "slow", "fast", 5.0) == [3.0, None, None, None]
