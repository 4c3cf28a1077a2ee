"""Concepts are learned by the strength of their signal, and are there before prompts elicit them (Park et al. 2024)."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._curves import first_step, over_arms
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder
from pipeline.runs.metrics import Series

WEAK, EVEN, STRONG, UNSAID = "signal 1", "signal 4", "signal 8", "signal 4, half unsaid"
ARMS = {WEAK: (1, 0), EVEN: (4, 0), STRONG: (8, 0), UNSAID: (4, 0.5)}
INTERVENTIONS = ("over_prompting", "arithmetic", "steering")
LEVEL = 0.8  # of the paper
BEGUN = 0.6  # that a concept is learned at all shows here
STEADY = 5  # measurements in a row: untrained models draw the right thing by chance now and then


@dataclass(frozen=True)
class Park2024Concepts(Claim):
    """Drawings of colour and size by the strength of the colour's signal, and with words of prompts left out."""

    paper: ClassVar = Paper("Park et al. 2024", "2406.19370", "sections 4 and 5, with images and a diffusion model")
    recipe: ClassVar = "concepts"
    targets: ClassVar = (
        Target(f"colour at {BEGUN}: {WEAK} to {STRONG}", "a stronger signal is learned sooner", low=1.5),
        Target(f"colour at {BEGUN}: {EVEN} to {STRONG}", "a stronger signal is learned sooner", low=1.2),
        Target(f"colour at {LEVEL}: {WEAK} to {STRONG}", "the same at the paper's level", low=1.2),
        Target(f"other concept @ {EVEN}", "what is never trained is first drawn as what is", high=0.4),
        Target(f"hidden gap @ {EVEN}", "> 0: interventions succeed before prompts do, in all 5 runs", low=1),
        Target(f"hidden gap @ {STRONG}", "> 0", low=1),
        Target(f"naive: {UNSAID} to {EVEN}", "leaving words out slows it", low=1.2),
        Target(f"elicited less naive @ {UNSAID}", "capability stays hidden from prompts", low=0.2),
    )
    costs: ClassVar = {"cpu": "12 runs, 4 minutes on one CPU core", "paper": "12 runs of 20,000 steps, on a GPU"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": {"max_steps": "4", "eval_steps": "2", "global_batch_size": "16"},
            "cpu": {"checkpoints.powers_of_two": "false", "eval_steps": "200"},
            # As many rows, steps and measurements as the paper's images, training and saves.
            "paper": {
                "max_steps": "20000", "eval_steps": "1000", "corpus.positions": "64", "corpus.train_rows": "2048",
                "corpus.held_out_rows": "32", "model.n_layer": "4", "model.n_embd": "256", "model.n_head": "8",
                "callbacks": "{concept_trajectory: {density: 0.5}}",
            },
        }[self.budget]  # fmt: skip
        return {
            arm: {"corpus.colour_signal": str(signal), "corpus.underspecified": str(unsaid), **budget}
            for arm, (signal, unsaid) in ARMS.items()
        }

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        series = run.series
        naive = _steadily(series["concept_11_naive"])
        elicited = _elicited(series)
        sooner = _steadily(elicited)
        never = dict(zip(*series["concept_11_naive"]))
        half = run.last_step / 2
        return {
            **{f"colour at {level}": first_step(series["concept_10_colour"], level) for level in (BEGUN, LEVEL)},
            "other concept": _other(series),
            "naive": naive,
            "elicited": sooner,
            "hidden gap": None if sooner is None else (run.last_step if naive is None else naive) - sooner,
            "elicited less naive": _mean([value - never[step] for step, value in zip(*elicited) if step > half]),
        }

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        key, colon, arms = target.name.partition(": ")
        if not colon:
            return super().numbers(target, found)
        first, _, second = arms.partition(" to ")
        pairs = found.pairs(key, first, second)
        last = max(one.run.last_step for one in found.arms[first])
        # One that has not come so far by the end is at least as slow as that.
        return [None if two is None else (one or last) / two for one, two in pairs]

    def draw(self, found: Found) -> Drawing:
        runs = {arm: [one.run.series for one in ones] for arm, ones in found.arms.items()}

        def of(take: Callable[[Mapping[str, Series]], Series]) -> dict[str, list[Series]]:
            return {arm: [take(one) for one in ones] for arm, ones in runs.items()}

        curves = {
            "colour of the trained combination 10": of(lambda series: series["concept_10_colour"]),
            "11, never trained: drawn when it is asked for": of(lambda series: series["concept_11_naive"]),
            "11, never trained: drawn by the best intervention": of(_elicited),
        }
        words = "How far a concept is learned by the strength of its signal, and how often what was never trained is "
        words += "drawn, when it is asked for and by the best of three interventions; over steps, mean over seeds."
        return Drawing(over_arms(curves), words, words)


def _steadily(series: Series) -> float | None:
    """The first step from which on a series is at the level for a while."""
    is_there = [value >= LEVEL for value in series.values]
    spans = (is_there[first : first + STEADY] for first in range(len(is_there) - STEADY + 1))
    return next((float(step) for step, span in zip(series.steps, spans) if all(span)), None)


def _elicited(series: Mapping[str, Series]) -> Series:
    """The best of the interventions at each step."""
    steps = series["concept_11_naive"].steps
    values = zip(*(series[f"concept_11_{name}"].values for name in INTERVENTIONS))
    return Series(steps, array("d", map(max, values)))


def _other(series: Mapping[str, Series]) -> float | None:
    """To what degree 11 has one concept when it first has the other."""
    pairs = zip(series["concept_11_colour"].values, series["concept_11_size"].values)
    return next((min(pair) for pair in pairs if max(pair) >= BEGUN), None)


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
