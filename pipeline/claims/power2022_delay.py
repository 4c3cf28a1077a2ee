"""Generalization comes after fitting, the later, the less of the table is shown (Power et al. 2022, figure 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.plots.seeds import Outcome, sweep
from pipeline.runs.folder import RunFolder

SHARES = ("0.28", "0.3", "0.4", "0.5")


@dataclass(frozen=True)
class Power2022Delay(Claim):
    """Addition modulo 97: steps to fit and to generalize, over the share of the table that is shown."""

    paper: ClassVar = Paper("Power et al. 2022", "2201.02177", "figure 1, left and center")
    recipe: ClassVar = "quickstart"
    targets: ClassVar = (
        Target("grok_gap @ 0.28", "fits within 10^3 steps, generalizes near 10^6", low=2),
        Target("slower with 0.28 than with 0.5", "steps grow fast as the share goes down", low=2),
        Target("train_accuracy @ 0.28", "1.0", low=0.99),
        Target("id_accuracy @ 0.28", "1.0", low=0.99),
    )
    costs: ClassVar = {"cpu": "12 runs, 20 minutes on two CPU cores", "paper": "12 runs of up to 100,000 steps"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": {"max_steps": "4", "eval_steps": "2", "global_batch_size": "16", "checkpoints.every": "[]"},
            "cpu": {"max_steps": "6000"},
            "paper": {"max_steps": "100000", "model.n_layer": "2", "learning_rate": "1e-3"},
        }[self.budget]
        return {
            share: {"corpus.train_fraction": share, "circuits": "{}", **budget}
            for share in (SHARES[::3] if self.budget == "smoke" else SHARES)
        }

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        return {
            "fit_step": run.grok.fit_step,
            "gen_step": run.grok.gen_step,
            "grok_gap": run.grok.grok_gap,
            "train_accuracy": run.at_end("train", "exact_match"),
            "id_accuracy": run.at_end("id", "exact_match"),
        }

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if target.name.startswith("slower"):
            return found.ratios("gen_step", "0.28", "0.5")
        return super().numbers(target, found)

    def draw(self, found: Found) -> Drawing:
        runs = [(float(share), one.run) for share, arm in found.arms.items() for one in arm]
        outcomes = [Outcome(share, run.grok.fit_step, run.grok.gen_step, run.last_step) for share, run in runs]
        figure = sweep("share of the table that is trained", outcomes)
        words = "Steps to fit and to generalize over the share of the table that is trained, each seed a point."
        return Drawing(figure, words, words)
