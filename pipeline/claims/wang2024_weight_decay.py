"""More weight decay, sooner generalization (Wang et al. 2024, appendix)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._sizes import PAPER, SMOKE
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.plots.seeds import Outcome, sweep
from pipeline.runs.folder import RunFolder

DECAYS = {"smoke": ("0.1", "1"), "cpu": ("0.1", "0.3", "1"), "paper": ("0.03", "0.1", "0.3")}


@dataclass(frozen=True)
class Wang2024WeightDecay(Claim):
    """Two-hop facts: steps to fit and to generalize over weight decay."""

    paper: ClassVar = Paper("Wang et al. 2024", "2405.15071", "appendix, figure on weight decay, ratio 9")
    recipe: ClassVar = "composition_small"
    targets: ClassVar = (
        Target("slower with the least than with the most", "`id` at 100,000: 0.53 with 0.03, 0.93 with 0.3", low=1.5),
    )
    costs: ClassVar = {
        "cpu": "9 runs of up to 20,000 steps, two hours on two CPU cores",
        "paper": "9 runs of up to 1.5 million steps, on GPUs",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": SMOKE,
            "cpu": {"corpus.ratio": "12.6"},
            "paper": {**PAPER, "max_steps": "1500000", "stop_patience": "10"},
        }[self.budget]
        return {decay: {"circuits": "{}", **budget, "weight_decay": decay} for decay in DECAYS[self.budget]}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        return {"fit_step": run.grok.fit_step, "gen_step": run.grok.gen_step, "grok_gap": run.grok.grok_gap}

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        least, *_, most = found.arms
        return found.ratios("gen_step", least, most)

    def draw(self, found: Found) -> Drawing:
        runs = [(float(decay), one.run) for decay, ones in found.arms.items() for one in ones]
        outcomes = [Outcome(decay, run.grok.fit_step, run.grok.gen_step, run.last_step) for decay, run in runs]
        words = "Steps to fit and to generalize over weight decay, each seed a point."
        return Drawing(sweep("weight decay", outcomes), words, words)
