"""What a claim is: a result of a paper as code.

A claim names a recipe, the arms that it compares (overrides of the recipe), the numbers it takes of each finished run,
and targets: what those numbers would be if the paper's result holds here. One file per claim, found by its name.
"""

from __future__ import annotations

import abc
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from pipeline.config.fields import Parameters, param
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError

BUDGETS = ("smoke", "cpu", "paper")
FEW = 5  # seeds below which an interval is the range
REACHED, MISSED, CENSORED, NOT_RUN = "holds", "does not hold", "censored", "not run"


@dataclass(frozen=True)
class Paper:
    """Where a claim comes from."""

    authors: str
    arxiv: str
    where: str  # the figure, table or section


@dataclass(frozen=True)
class Target:
    """A number that a result speaks of: `key @ arm`, or a name that `Claim.numbers` gives values for.

    The result holds where the number lies between `low` and `high`; `paper` is what the paper has, in its words.
    """

    name: str
    paper: str
    low: float | None = None
    high: float | None = None

    @property
    def bounds(self) -> str:
        """What would hold, such as `>= 5`."""
        edges = {">=": self.low, "<=": self.high}
        return " and ".join(f"{sign} {edge:g}" for sign, edge in edges.items() if edge is not None)

    def is_met(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


class Interval(NamedTuple):
    """A number over seeds: its median, and how far it goes; how many runs have it, of how many that are finished."""

    middle: float | None
    low: float | None
    high: float | None
    reached: int
    of: int


@dataclass(frozen=True)
class Measured:
    """A finished run of an arm: its seed, its folder as it was read, and the numbers that the claim takes of it.

    A number is None where the run had not come so far by its last step.
    """

    seed: int
    run: RunFolder
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class Found:
    """What there is of a claim's runs: those that are finished, by arm; and how many seeds each arm is to have."""

    arms: Mapping[str, Sequence[Measured]]
    seeds: int

    def values(self, key: str, arm: str) -> list[float | None]:
        return [measured.values[key] for measured in self.arms[arm]]

    def pairs(self, key: str, first: str, second: str) -> list[tuple[float | None, float | None]]:
        """The values of two arms by seed, of the seeds that both have."""
        other = {measured.seed: measured.values[key] for measured in self.arms[second]}
        return [(one.values[key], other[one.seed]) for one in self.arms[first] if one.seed in other]

    def ratios(self, key: str, first: str, second: str) -> list[float | None]:
        """How many times as large a number is in one arm as in another, by seed."""
        return [None if not one or not two else one / two for one, two in self.pairs(key, first, second)]

    def slower(self, key: str, slow: str, fast: str, least: float) -> list[float | None]:
        """How many times as many steps one arm needs as another to come to something, by seed.

        A run that had not come there when it ended needs more steps than it took: their ratio is told where it is
        `least` already, and else nothing is known.
        """
        others = {one.seed: one.values[key] for one in self.arms[fast]}
        found: list[float | None] = []
        for one in self.arms[slow]:
            if one.seed in others:
                step, other = one.values[key], others[one.seed]
                ratio = (step or one.run.last_step) / other if other else None
                found.append(None if ratio is None or (not step and ratio < least) else ratio)
        return found


@dataclass(frozen=True)
class Claim(Parameters, abc.ABC):
    """A result of a paper: recipe x arms x seeds -> numbers with intervals -> verdicts and one figure."""

    budget: Literal["smoke", "cpu", "paper"] = param(
        "cpu", "how much of the paper's scale is run: smoke is seconds, and shows nothing"
    )
    seeds: tuple[int, ...] = param((0, 1, 2), "of every arm")

    tiny_values: ClassVar[Mapping[str, Any]] = {"budget": "smoke", "seeds": (0,)}
    paper: ClassVar[Paper]
    recipe: ClassVar[str]  # the name of one that comes with this package
    targets: ClassVar[tuple[Target, ...]]
    costs: ClassVar[Mapping[str, str]]  # budget -> how long it takes on what

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ParameterError("seeds", f"{self.seeds!r} are not one or more different numbers >= 0")

    @abc.abstractmethod
    def arms(self) -> Mapping[str, Mapping[str, str]]:
        """The arms by name, as overrides of the recipe at this budget; each is run with every seed.

        `{NAME}` in a value is the folder of an earlier arm's run with the same seed, as in `fork: "{NAME}@100"`.
        """

    @abc.abstractmethod
    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        """The numbers of one finished run; None where it had not come so far by its last step."""

    @abc.abstractmethod
    def draw(self, found: Found) -> Drawing:
        """The paper's figure with our runs; only called when every arm has a finished run."""

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        """The values of a target by seed: for `key @ arm`, those that `measure` has."""
        key, _, arm = target.name.partition(" @ ")
        return found.values(key, arm)


def interval(values: Sequence[float | None]) -> Interval:
    """The median and its interval: the range below five values, from five on a bootstrap over them (95 %)."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return Interval(None, None, None, 0, len(values))
    low, high = known[0], known[-1]
    if len(known) >= FEW:
        drawn = np.array(known)[Draws(0, "bootstrap over seeds").below(len(known), 2000, len(known))]
        low, high = (float(edge) for edge in np.quantile(np.median(drawn, axis=1), [0.025, 0.975]))
    return Interval(statistics.median(known), low, high, len(known), len(values))


def verdict(target: Target, values: Sequence[float | None], seeds: int) -> str:
    """Whether a target is met by all seeds, by some, or by none; a value that was not reached decides nothing.

    Args:
        target: What would hold.
        values: Those of the finished runs, by seed; None where a run ended before the number was there.
        seeds: How many runs there are to be.
    """
    known = [value for value in values if value is not None]
    met = sum(map(target.is_met, known))
    if not values:
        return NOT_RUN
    if len(values) < seeds:
        return f"{len(values)} of {seeds} run"
    if known and not met:
        return MISSED
    if len(known) < len(values):
        return CENSORED if not met else f"holds in {met} of {len(values)}, {CENSORED} in {len(values) - len(known)}"
    return REACHED if met == len(values) else f"holds in {met} of {len(values)}"
