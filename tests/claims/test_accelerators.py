"""Best and median cells and what stays, of curves written by hand."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from pipeline.claims._accelerators import BEST, FIRST, MEDIAN, PLAIN, STAYS, Accelerator, settled_step, targets
from pipeline.claims.base import Found, Measured, Paper
from pipeline.runs.metrics import Series

CELLS = (("1", "0"), ("2", "0"), ("3", "0"))


@dataclass(frozen=True)
class Sooner(Accelerator):
    """A method that is compared."""

    paper: ClassVar = Paper("", "", "")
    method: ClassVar = "sooner"
    turned_on: ClassVar = {"optimizer.muon.momentum": "0.9"}
    targets: ClassVar = targets("")
    cells: ClassVar = {PLAIN: CELLS, "sooner": CELLS}
    costs: ClassVar = {"cpu": ""}
    at_paper: ClassVar = {}


class Ended:
    last_step = 2000


def numbers(plain: list[int | None], sooner: list[int | None], key: str = "settled_step") -> dict[str, float | None]:
    steps: Any = dict(zip(Sooner().arms(), [*plain, *sooner]))
    run: Any = Ended()
    arms = {arm: [Measured(4, run, {"gen_step": 7, "settled_step": 9, key: step})] for arm, step in steps.items()}
    found = Found(arms, 1)
    return {target.name: Sooner().numbers(target, found)[0] for target in Sooner.targets}


def test_a_run_stays_from_where_no_later_evaluation_is_below() -> None:
    matches = [0.5, 1.0, 0.98, 0.99, 1.0, 1.0]
    series = Series(array("q", [0, 25, 50, 75, 100, 125]), array("d", matches))
    assert [settled_step(series, count) for count in (1, 3, 4)] == [75, 75, None]
    assert settled_step(Series(array("q", [0, 25]), array("d", [1.0, 0.5])), 1) is None


def test_the_best_and_the_median_cell_of_each_are_compared() -> None:
    found = numbers([800, 400, 1200], [300, 100, 200])
    assert found == {BEST: 4, MEDIAN: 4, FIRST: 1, STAYS: 0}
    assert numbers([800, 400, 1200], [300, 100, 200], "gen_step")[FIRST] == 4


@pytest.mark.parametrize(
    ("plain", "sooner", "best", "median", "stays"),
    [
        ([None, None, None], [None, None, None], None, None, 0),
        ([None, None, None], [500, 500, None], 4, 4, 2 / 3),  # at least so much
        ([None, None, None], [1900, 1900, None], None, None, 2 / 3),  # which need not be 1.2
        ([500, 500, None], [None, None, None], 0.25, 0.25, -2 / 3),  # at most so much
        ([500, None, None], [250, None, None], 2, None, 0),
    ],
)
def test_a_run_that_does_not_get_there_bounds_what_is_compared(
    plain: list[int | None], sooner: list[int | None], best: float | None, median: float | None, stays: float
) -> None:
    found = numbers(plain, sooner)
    assert (found[BEST], found[MEDIAN], found[STAYS]) == pytest.approx((best, median, stays))


def test_only_the_arms_of_the_method_have_it() -> None:
    arms = Sooner().arms()
    assert len(arms) == 6
    assert [name.startswith("sooner") for name in arms] == ["optimizer.muon.momentum" in arm for arm in arms.values()]
