"""Two-hop composition is learned in distribution and not out of it (Wang et al. 2024, figure 1 left, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._sizes import PAPER, SMOKE
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.axes import StepScale
from pipeline.plots.base import Drawing
from pipeline.plots.seeds import Group, comparison
from pipeline.plots.training import split_pens
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import match_key

ARM = "ratio 9"
SPLITS = ("train", "id", "ood", "ood_atomic")


@dataclass(frozen=True)
class Wang2024Composition(Claim):
    """Held-out pairs of facts that are composed in training are answered; those of facts that never are, are not."""

    paper: ClassVar = Paper("Wang et al. 2024", "2405.15071", "figure 1 left, section 3.2")
    recipe: ClassVar = "composition_small"
    targets: ClassVar = (
        Target(f"id @ {ARM}", "1.0", low=0.99),
        Target(f"grok_gap @ {ARM}", "about 50: fits before 10^4 steps, generalizes near 5 * 10^5", low=2),
        Target(f"ood @ {ARM}", "near 0", high=0.1),
        Target(f"ood_atomic @ {ARM}", "1.0: the facts themselves are known", low=0.97),
    )
    costs: ClassVar = {
        "cpu": "3 runs, 15 minutes on two CPU cores",
        "paper": "3 runs of up to 1.5 million steps, on GPUs",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        paper = {**PAPER, "max_steps": "1500000", "stop_patience": "10"}
        budget = {"smoke": SMOKE, "cpu": {}, "paper": paper}[self.budget]
        return {ARM: {"circuits": "{}", **budget}}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        ends = {split: run.at_end(split, "exact_match") for split in SPLITS}
        return {**ends, "fit_step": run.grok.fit_step, "gen_step": run.grok.gen_step, "grok_gap": run.grok.grok_gap}

    def draw(self, found: Found) -> Drawing:
        runs = [one.run for one in found.arms[ARM]]
        curves = {split: [run.series[match_key(split)] for run in runs] for split in SPLITS}
        scale = StepScale.over(max(run.last_step for run in runs), [run for group in curves.values() for run in group])
        pens = split_pens(SPLITS, ("id", "ood"))
        groups = [Group(split, group, pens[split].colour) for split, group in curves.items()]
        words = "Exact match over training steps: compositions that are trained (train), held out (id), and of facts "
        words += "that are never composed in training (ood), beside those facts themselves (ood_atomic)."
        return Drawing(comparison(groups, None, scale), words, words)
