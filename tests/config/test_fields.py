"""Bounds hold at construction, for numbers only, and say what they allow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.fields import Parameters, allowed, param, parameters_of, within
from pipeline.utils.errors import ParameterError


@dataclass(frozen=True)
class Shape(Parameters):
    sides: int = param(3, "of the polygon", ge=3)
    share: float = param(0.5, "that is filled", gt=0, lt=1)
    depth: int | None = param(None, "levels", ge=1, le=9)
    scale: float = param(1.0, "without bounds")
    drawn: int = field(default=-5, init=False)


def test_defaults_are_values_and_state_is_no_parameter() -> None:
    assert Shape().as_dict() == {"sides": 3, "share": 0.5, "depth": None, "scale": 1.0}
    assert [parameter.name for parameter in parameters_of(Shape)] == ["sides", "share", "depth", "scale"]
    assert parameters_of(Shape)[0].metadata == {"help": "of the polygon", "ge": 3}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sides": 2}, "sides: 2 is not >= 3"),
        ({"share": 0}, "share: 0 is not > 0 and < 1"),
        ({"share": 1.0}, "share: 1.0 is not > 0 and < 1"),
        ({"depth": 10}, "depth: 10 is not >= 1 and <= 9"),
        ({"scale": math.nan}, "scale: nan is not finite"),
        ({"scale": -math.inf}, "scale: -inf is not finite"),
        ({"sides": -(10**400)}, f"sides: {-(10**400)} is not >= 3"),
    ],
)
def test_a_value_out_of_bounds_is_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        Shape(**values)
    assert str(caught.value) == message
    assert caught.value.inside("block").key == f"block.{caught.value.key}"
    assert str(caught.value.inside("block")) == f"block.{message}"


@given(st.one_of(st.integers(), st.floats()), st.integers(-5, 5), st.integers(-5, 5))
def test_within_is_the_four_comparisons(value: float, low: int, high: int) -> None:
    finite = isinstance(value, int) or math.isfinite(value)
    assert within(value, {"ge": low, "lt": high}) == (finite and low <= value < high)
    assert within(value, {"gt": low, "le": high}) == (finite and low < value <= high)


@given(st.one_of(st.none(), st.booleans(), st.text(), st.lists(st.integers())))
def test_what_is_no_number_is_never_out_of_bounds(value: object) -> None:
    assert within(value, {"ge": 2, "lt": 1})


def test_bounds_in_words() -> None:
    assert allowed({}) == ""
    assert allowed({"ge": 0, "lt": 2**32}) == ">= 0 and < 4294967296"
    assert allowed({"gt": 0, "le": 0.5}) == "> 0 and <= 0.5"
