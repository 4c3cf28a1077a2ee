"""Generalization comes sooner with more compositions per fact, not with more facts (Wang et al. 2024, figure 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._sizes import PAPER, SMOKE
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.plots.seeds import Outcome, sweep
from pipeline.runs.folder import RunFolder

RATIOS = ("7.2", "9", "12.6", "18")
TWICE = "18, twice the entities"


@dataclass(frozen=True)
class Wang2024Ratio(Claim):
    """Two-hop facts: steps to generalize over the ratio of trained compositions to facts, and at twice the entities."""

    paper: ClassVar = Paper("Wang et al. 2024", "2405.15071", "figure 2a and 2b, section 3.2")
    recipe: ClassVar = "composition_small"
    targets: ClassVar = (
        Target("slower with 9 than with 18", "0.95 near step 200,000 with 9, 0.99 at 20,000 with 18", low=2),
        Target("epochs with twice the entities", "curves over epochs fall together at 2,000, 5,000, 10,000", 0.5, 2),
    )
    costs: ClassVar = {
        "cpu": "15 runs of up to 20,000 steps, hours on two CPU cores",
        "paper": "15 runs of up to 1.5 million steps, on GPUs",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": {**SMOKE, "corpus.num_relations": "20", "corpus.out_degree": "20"},
            "cpu": {},
            "paper": {**PAPER, "max_steps": "1500000", "stop_patience": "10"},
        }[self.budget]
        ratios = ("9", "18") if self.budget == "smoke" else RATIOS
        entities = {"smoke": "60", "cpu": "200", "paper": "4000"}[self.budget]
        common = {"circuits": "{}", **budget}
        return {
            **{ratio: {**common, "corpus.ratio": ratio} for ratio in ratios},
            TWICE: {**common, "corpus.ratio": "18", "corpus.num_entities": entities},
        }

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        gen, rows = run.grok.gen_step, run.corpus["sizes"]["train"]
        batch = run.recipe.options.global_batch_size
        epochs = None if gen is None or batch is None else gen * batch / rows
        return {"fit_step": run.grok.fit_step, "gen_step": gen, "gen_epoch": epochs}

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if target.name.startswith("epochs"):
            return found.ratios("gen_epoch", TWICE, "18")
        return found.ratios("gen_step", "9", "18")

    def draw(self, found: Found) -> Drawing:
        runs = [(float(arm), one.run) for arm, ones in found.arms.items() if arm != TWICE for one in ones]
        outcomes = [Outcome(ratio, run.grok.fit_step, run.grok.gen_step, run.last_step) for ratio, run in runs]
        figure = sweep("trained compositions per fact", outcomes)
        words = "Steps to fit and to generalize over the ratio of trained compositions to facts, each seed a point."
        return Drawing(figure, words, words)
