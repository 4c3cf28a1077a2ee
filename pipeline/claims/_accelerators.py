"""What claims of faster generalization share: the same sweep over rate and decay, without a method and with it.

A method that is compared with one setting of the plain optimizer shows how well that setting was chosen. So both are
tuned over equally many cells, and the best and the median cell of each are compared. What counts is the step from which
a run stays generalized, as exact match on `id` can cross 0.99 and fall again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims.base import Claim, Found, Measured, Target
from pipeline.plots.base import Drawing
from pipeline.plots.cells import CellRun, cells
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import THRESHOLD, match_key
from pipeline.runs.metrics import Series

Cell = tuple[str, str]  # learning rate, weight decay
PLAIN = "plain"
STAYED = 12  # evaluations in a row at which a run is at the threshold when it counts as staying there
BEST, MEDIAN, STAYS = "speed-up of the best cell", "speed-up of the median cell", "cells that stay, more than plain"
FIRST = "speed-up of the first crossing"
# The quickstart, smaller.
CPU = {
    "corpus.group": "Z53", "corpus.train_fraction": "0.4", "model.n_embd": "64", "global_batch_size": "256",
    "max_steps": "1500",
}  # fmt: skip
SMOKE = {"max_steps": "4", "eval_steps": "2", "global_batch_size": "16"}


def targets(best: str, low: float = 1.2) -> tuple[Target, ...]:
    """What would hold of a method; `best`: what its paper has, `low`: below it is within what a seed moves."""
    return (
        Target(BEST, best, low=low),
        Target(MEDIAN, "not reported", low=low),
        Target(FIRST, "the paper's measure, at its own settings", low=low),
        Target(STAYS, "not reported", low=0),
    )


def settled_step(series: Series, count: int = STAYED) -> int | None:
    """The first of the evaluations at the end of a run that are all at the threshold; None where they are too few."""
    streak = 0
    for value in reversed(series.values):
        if value < THRESHOLD:
            break
        streak += 1
    return series.steps[-streak] if streak >= count else None


@dataclass(frozen=True)
class Accelerator(Claim):
    """A method against the plain optimizer in the same number of cells of rate x decay."""

    recipe: ClassVar[str] = "quickstart"
    method: ClassVar[str]
    turned_on: ClassVar[Mapping[str, str]]  # overrides with which the method trains
    cells: ClassVar[Mapping[str, Sequence[Cell]]]  # of PLAIN, and of the method; as many
    at_paper: ClassVar[Mapping[str, str]]  # overrides with which the recipe is the paper's setting
    at_cpu: ClassVar[Mapping[str, str]] = CPU

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {"smoke": SMOKE, "cpu": self.at_cpu, "paper": self.at_paper}[self.budget]
        shared = {
            "circuits": "{}", "checkpoints.every": "[]", "checkpoints.powers_of_two": "false", "save_steps": "100000",
            "stop_patience": str(STAYED), **budget,
        }  # fmt: skip
        # Each arm of a smoke run is seconds, most of which is the start.
        ways, most = ((self.method,), 1) if self.budget == "smoke" else ((PLAIN, self.method), None)
        return {
            f"{way}, rate {rate}, decay {decay}": {
                **shared, "learning_rate": rate, "weight_decay": decay, **(self.turned_on if way != PLAIN else {}),
            }
            for way in ways
            for rate, decay in self.cells[way][:most]
        }  # fmt: skip

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        return {
            "fit_step": run.grok.fit_step,
            "gen_step": run.grok.gen_step,
            "settled_step": settled_step(run.series[match_key("id")]),
            "stays": run.grok.stays,
            "id_accuracy": run.at_end("id", "exact_match"),
        }

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if self.budget == "smoke":
            return []
        seeds = [one.seed for one in next(iter(found.arms.values()))]
        return [self._number(target, found, seed) for seed in seeds]

    def _number(self, target: Target, found: Found, seed: int) -> float | None:
        """A target's value with one seed."""
        name = target.name
        key = "gen_step" if name == FIRST else "settled_step"
        plain, ours = ([one.values[key] for one in self._runs(found, way, seed)] for way in (PLAIN, self.method))
        if name == STAYS:
            return _reached(ours) - _reached(plain)
        take = statistics.median if name == MEDIAN else min
        before, after = (take([math.inf if step is None else step for step in steps]) for steps in (plain, ours))
        if math.isinf(before) and math.isinf(after):
            return None
        # What did not get there took longer than its runs: the ratio is a bound, which may not tell.
        ended = [max(one.run.last_step for one in self._runs(found, way, seed)) for way in (PLAIN, self.method)]
        ratio = min(before, ended[0]) / min(after, ended[1])
        return None if math.isinf(before) and ratio < (target.low or 0) else ratio

    def _runs(self, found: Found, way: str, seed: int) -> Iterator[Measured]:
        for arm, runs in found.arms.items():
            if arm.startswith(f"{way}, "):
                yield from (one for one in runs if one.seed == seed)

    def draw(self, found: Found) -> Drawing:
        runs = []
        for arm, ones in found.arms.items():
            way, _, cell = arm.partition(", ")
            runs += [CellRun(cell, way, _step(one), one.run.last_step) for one in ones]
        words = f"Step from which exact match on held-out sums stays at 0.99, without {self.method} and with it, by "
        words += (
            "learning rate and weight decay; each seed is a point, a triangle one that does not stay there by then."
        )
        return Drawing(cells("step from which it stays generalized", runs), words, words)


def _step(one: Measured) -> int | None:
    step = one.values["settled_step"]
    return None if step is None else int(step)


def _reached(steps: Sequence[float | None]) -> float:
    """The share of runs that got there."""
    return sum(step is not None for step in steps) / len(steps)
