"""What each kept step is compared with: the step before it, the last one, and the nearest step of another run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Compared(NamedTuple):
    """A step, what it is compared with, and that one's number."""

    step: int
    to: str
    to_step: int


def comparisons(found: Mapping[int, T], elsewhere: Mapping[int, T]) -> Iterator[tuple[Compared, T, T]]:
    """The comparisons of every step in order, with what was found at both; `elsewhere` is of another run, or empty."""
    steps = sorted(found)
    for before, step in zip([None, *steps], steps):
        if before is not None:
            yield Compared(step, "before", before), found[step], found[before]
        yield Compared(step, "last", steps[-1]), found[step], found[steps[-1]]
        if elsewhere:
            nearest = min(elsewhere, key=lambda other: (abs(other - step), other))
            yield Compared(step, "other run", nearest), found[step], elsewhere[nearest]
