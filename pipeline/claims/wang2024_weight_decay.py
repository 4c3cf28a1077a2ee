"""More weight decay, sooner generalization (Wang et al. 2024, appendix)."""

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

DECAYS = {"smoke": ("0.1", "1"), "cpu": ("0.03", "0.3", "1"), "paper": ("0.03", "0.1", "0.3")}
KNOWN = 0.9  # exact match on `id` from which the ratio of steps is told


@dataclass(frozen=True)
class Wang2024WeightDecay(Claim):
    """Two-hop facts: steps to fit and to generalize over weight decay."""

    paper: ClassVar = Paper("Wang et al. 2024", "2405.15071", "appendix, figure on weight decay, ratio 9")
    recipe: ClassVar = "composition_small"
    targets: ClassVar = (
        Target("slower with the least than with the most", "direction", low=1.5),
        Target("id, the most less the least, at the end", "0.4: 0.53 with 0.03, 0.93 with 0.3 at 100,000", low=0.1),
    )
    costs: ClassVar = {
        "cpu": "9 runs of 4,000 steps, 25 minutes on one CPU core",
        "paper": "9 runs of up to 1.5 million steps, on GPUs",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": SMOKE,
            "cpu": {**SMALL, "corpus.ratio": "12.6", "max_steps": "4000"},
            "paper": {**PAPER, "max_steps": "1500000", "stop_patience": "10"},
        }[self.budget]
        return {decay: {"circuits": "{}", **budget, "weight_decay": decay} for decay in DECAYS[self.budget]}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        found = {"fit_step": run.grok.fit_step, "gen_step": run.grok.gen_step}
        return {
            **found,
            "known_step": first_step(run.series[match_key("id")], KNOWN),
            "id": run.at_end("id", "exact_match"),
        }

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        least, *_, most = found.arms
        if target.name.startswith("id"):
            ends = found.pairs("id", most, least)
            return [None if one is None or other is None else one - other for one, other in ends]
        return found.slower("known_step", least, most, target.low or 0)

    def draw(self, found: Found) -> Drawing:
        words = "Exact match on held-out compositions over training steps, by weight decay."
        return curves(found, {f"weight decay {arm}": (arm, "id") for arm in found.arms}, words)
