"""Generalization comes sooner with more compositions per fact, not with more facts (Wang et al. 2024, figure 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._curves import curves, first_step
from pipeline.claims._sizes import PAPER, SMALL, SMOKE
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import match_key

RATIOS = {"smoke": ("9", "18"), "cpu": ("9", "12.6", "18"), "paper": ("3.6", "5.4", "7.2", "9", "12.6", "18")}
KNOWN = 0.9  # exact match on `id` from which the ratio of steps is told
TWICE = "18, twice the entities"


@dataclass(frozen=True)
class Wang2024Ratio(Claim):
    """Two-hop facts: steps to `id` of 0.9, by trained compositions to a fact, and at twice the entities."""

    paper: ClassVar = Paper("Wang et al. 2024", "2405.15071", "figure 2a and 2b, section 3.2")
    recipe: ClassVar = "composition_small"
    targets: ClassVar = (
        Target("slower with 9 than with 18", "0.95 near step 200,000 with 9, 0.99 at 20,000 with 18", low=2),
        Target("epochs with twice the entities", "curves over epochs fall together at 2,000, 5,000, 10,000", 0.5, 2),
        Target("id, 18 less 9, at as many steps", "about 0.9 at step 20,000", low=0.2),
    )
    costs: ClassVar = {
        "cpu": "12 runs of 5,000 and 9,000 steps, half an hour on one CPU core",
        "paper": "21 runs of up to 1.5 million steps, on GPUs",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": {**SMOKE, "corpus.num_relations": "20", "corpus.out_degree": "20"},
            "cpu": {**SMALL, "max_steps": "5000"},
            "paper": {**PAPER, "max_steps": "1500000", "stop_patience": "10"},
        }[self.budget]  # fmt: skip
        entities = {"smoke": "60", "cpu": "80", "paper": "4000"}[self.budget]
        longer = {"max_steps": "9000"} if self.budget == "cpu" else {}
        common = {"circuits": "{}", **budget}
        return {
            **{ratio: {**common, "corpus.ratio": ratio} for ratio in RATIOS[self.budget]},
            TWICE: {**common, **longer, "corpus.ratio": "18", "corpus.num_entities": entities},
        }

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        known = first_step(run.series[match_key("id")], KNOWN)
        batch = run.recipe.options.global_batch_size
        epochs = None if known is None or batch is None else known * batch / run.corpus["sizes"]["train"]
        found = {"fit_step": run.grok.fit_step, "gen_step": run.grok.gen_step}
        return {**found, "known_step": known, "known_epoch": epochs, "id": run.at_end("id", "exact_match")}

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if target.name.startswith("epochs"):
            return found.ratios("known_epoch", TWICE, "18")
        if target.name.startswith("id"):
            ends = found.pairs("id", "18", "9")
            return [None if one is None or other is None else one - other for one, other in ends]
        return found.slower("known_step", "9", "18", target.low or 0)

    def draw(self, found: Found) -> Drawing:
        words = "Exact match on held-out compositions over training steps, by the ratio of trained ones to facts."
        return curves(found, {f"ratio {arm}": (arm, "id") for arm in found.arms}, words)
