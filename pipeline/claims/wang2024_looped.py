"""Blocks that are shared by both hops, and whether facts that are never composed in training then compose.

Wang et al. 2024, section 3.3 and appendix: parameter sharing. Beside it the bridge as a target of a middle layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._curves import curves
from pipeline.claims._sizes import DENSE, DENSE_MODEL, PAPER, SMOKE
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder

UNSHARED, SHARED = "unshared", "shared"
FOUND = "shared, hops trained"
HIGHER = "ood of shared above unshared"
LOOPED = {"model.name": "gpt2_looped", "model.n_loops": "2"}
# In every arm as many blocks run.
METHODS: Mapping[str, tuple[int, Mapping[str, str]]] = {
    UNSHARED: (2, {}),
    SHARED: (1, LOOPED),
    FOUND: (1, {**LOOPED, "objective": "{name: bridge, facts: true}"}),
}


@dataclass(frozen=True)
class Wang2024Looped(Claim):
    """Two-hop facts of facts that are never composed: with blocks of their own, shared ones, and a trained hop."""

    paper: ClassVar = Paper("Wang et al. 2024", "2405.15071", "section 3.3 and appendix; trained bridges are ours")
    recipe: ClassVar = "composition_small"
    targets: ClassVar = (
        Target(f"ood @ {UNSHARED}", "near 0", high=0.1),
        Target(HIGHER, "0.23 at step 250,000, 0.73 at 1.5 million", low=0.1),
        Target(f"ood @ {FOUND}", "not in the paper", low=0.5),
        Target(f"ood_atomic @ {UNSHARED}", "1.0: the facts themselves are known", low=0.97),
        Target(f"ood_atomic @ {SHARED}", "1.0", low=0.97),
    )
    costs: ClassVar = {
        "cpu": "15 runs of 1,600 steps with five seeds, an hour on one CPU core",
        "paper": "15 runs of 1.5 million steps with five seeds, on GPUs",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": SMOKE,
            "cpu": {**DENSE, **DENSE_MODEL, "weight_decay": "0.5", "max_steps": "1600",
                    "eval_steps": "200", "max_eval_samples": "300", "checkpoints": "{powers_of_two: false, every: []}"},
            "paper": {**PAPER, "corpus.ratio": "12.6", "weight_decay": "0.3", "max_steps": "1500000"},
        }[self.budget]  # fmt: skip
        blocks = {"smoke": 1, "cpu": 2, "paper": 4}[self.budget]
        return {
            arm: {"circuits": "{}", "stop_when": "never", **budget, "model.n_layer": str(blocks * times), **more}
            for arm, (times, more) in METHODS.items()
            if self.budget != "smoke" or arm == FOUND
        }

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        ends = {split: run.at_end(split, "exact_match") for split in ("train", "id", "ood", "ood_atomic")}
        return {**ends, "fit_step": run.grok.fit_step, "gen_step": run.grok.gen_step}

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if not {*METHODS} <= {*found.arms}:  # a smoke run has one of the arms
            return []
        if target.name == HIGHER:
            pairs = found.pairs("ood", SHARED, UNSHARED)
            return [None if one is None or other is None else one - other for one, other in pairs]
        return super().numbers(target, found)

    def draw(self, found: Found) -> Drawing:
        words = (
            "Exact match over training steps on compositions of facts that are never composed, each seed thin: in four "
        )
        words += "blocks, in two that run twice, and in these with the fact trained that each run of them ends with."
        return curves(found, {arm: (arm, "ood") for arm in found.arms}, words)
