"""Compositions of facts that are never composed in training are learned once the bridge is said (TCotMechanism)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._sizes import PAPER, SMOKE
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.axes import StepScale
from pipeline.plots.base import Drawing
from pipeline.plots.seeds import Group, comparison
from pipeline.plots.style import HUES
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import match_key

SPLITS = ("ood", "ood_atomic")


@dataclass(frozen=True)
class OodBridgeSaid(Claim):
    """The same corpus, model and steps, with `t` or with `b t` as the answer to `h r1 r2`: what reaches `ood`."""

    paper: ClassVar = Paper(
        "Wang et al. 2024, and the authors' log of TCotMechanism", "2405.15071", "section 3.2; log with 5 % wrong tails"
    )
    recipe: ClassVar = "composition_small"
    targets: ClassVar = (
        Target("ood @ silent", "near 0 (Wang et al. 2024)", high=0.1),
        Target("ood @ said", "0.953 at step 8,000, 0.978 at 20,000", low=0.9),
        Target("id @ said", "0.977 at step 8,000", low=0.97),
        Target("ood_atomic @ silent", "1.0: the facts themselves are known", low=0.97),
        Target("ood_atomic @ said", "0.998 at step 8,000", low=0.97),
    )
    costs: ClassVar = {"cpu": "6 runs of 4,000 steps, 20 minutes on two CPU cores", "paper": "6 runs of 20,000 steps"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": SMOKE,
            "cpu": {"max_steps": "4000", "stop_when": "never"},
            "paper": {**PAPER, "corpus.ratio": "7.2", "max_steps": "20000", "stop_when": "never"},
        }[self.budget]
        return {bridge: {"corpus.bridge": bridge, "circuits": "{}", **budget} for bridge in ("silent", "said")}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        ends = {split: run.at_end(split, "exact_match") for split in ("train", "id", *SPLITS)}
        return {**ends, "fit_step": run.grok.fit_step, "gen_step": run.grok.gen_step}

    def draw(self, found: Found) -> Drawing:
        runs = {arm: [one.run for one in ones] for arm, ones in found.arms.items()}
        curves = {
            f"{split}, bridge {arm}": [run.series[match_key(split)] for run in ones]
            for arm, ones in runs.items()
            for split in SPLITS
        }
        last = max(run.last_step for ones in runs.values() for run in ones)
        scale = StepScale.over(last, [series for group in curves.values() for series in group])
        groups = [Group(label, group, hue) for (label, group), hue in zip(curves.items(), HUES)]
        words = (
            "Exact match over training steps on compositions of facts that are never composed in training (ood), and "
        )
        words += (
            "on those facts (ood_atomic), where the answer is the tail alone and where the bridge is said before it."
        )
        return Drawing(comparison(groups, None, scale), words, words)
