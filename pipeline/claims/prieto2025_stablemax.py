"""Without weight decay the softmax collapses before it generalizes; what then helps (Prieto et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._accelerators import CPU, SMOKE
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.axes import StepScale
from pipeline.plots.base import Drawing
from pipeline.plots.seeds import Group, comparison
from pipeline.plots.style import HUES
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import match_key

COLLAPSE = "train_softmax_collapse"
ARMS = {
    "cross-entropy": {},
    "stablemax": {"objective.loss": "stablemax"},
    "orthogonal": {"optimizer": "{orthogonal: {}}"},
}


@dataclass(frozen=True)
class Prieto2025Stablemax(Claim):
    """Addition without weight decay, by cross-entropy, by StableMax, and by the orthogonal gradient."""

    paper: ClassVar = Paper("Prieto et al. 2025", "2501.04697", "the claims of the abstract")
    recipe: ClassVar = "quickstart"
    targets: ClassVar = (
        Target("collapse @ cross-entropy", "most of the training softmaxes are exactly 1 in float32", low=0.5),
        Target("id @ cross-entropy", "does not generalize without regularization", high=0.5),
        Target("id @ stablemax", "1.0, after 10^4 steps and more", low=0.99),
        Target("id @ orthogonal", "1.0, within 300 epochs", low=0.99),
    )
    costs: ClassVar = {"cpu": "9 runs, 4 minutes on one CPU core", "paper": "9 runs of up to 100,000 steps, on a GPU"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        paper = {"corpus.group": "Z113", "corpus.train_fraction": "0.4", "learning_rate": "1e-3", "max_steps": "100000"}
        budget = {"smoke": SMOKE, "cpu": {**CPU, "max_steps": "2000", "eval_steps": "50"}, "paper": paper}[self.budget]
        shared = {
            "circuits": "{}", "checkpoints.every": "[]", "checkpoints.powers_of_two": "false", "save_steps": "100000",
            "weight_decay": "0", **budget,
        }  # fmt: skip
        return {name: {**shared, **own} for name, own in ARMS.items()}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        return {
            "id": run.at_end("id", "exact_match"),
            "collapse": run.latest(f"eval_{COLLAPSE}"),
            "fit_step": run.grok.fit_step,
            "gen_step": run.grok.gen_step,
        }

    def draw(self, found: Found) -> Drawing:
        curves = {arm: [one.run.series[match_key("id")] for one in ones] for arm, ones in found.arms.items()}
        last = max(one.run.last_step for ones in found.arms.values() for one in ones)
        scale = StepScale.over(last, [series for group in curves.values() for series in group])
        groups = [Group(arm, group, hue) for (arm, group), hue in zip(curves.items(), HUES)]
        words = "Exact match on held-out sums over training steps without weight decay, by cross-entropy, by StableMax "
        words += "and by the orthogonal gradient; each seed is a thin line."
        return Drawing(comparison(groups, "id", scale), words, words)
