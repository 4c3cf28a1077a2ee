"""Facts that are added to a person's own let compositions be answered that were never trained (Abramov et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._curves import curves
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder

ALONE, RAISED = "the file alone", "1000 facts added"
SPLITS = ("train", "id", "ood", "id_atomic", "ood_atomic")


@dataclass(frozen=True)
class Abramov2025OwnFacts(Claim):
    """200 facts and what follows from two of them, alone and beside invented ones that raise the ratio."""

    paper: ClassVar = Paper("Abramov et al. 2025", "2504.20752", "abstract; their facts are of 2WikiMultiHopQA")
    recipe: ClassVar = "own_facts"
    targets: ClassVar = (
        Target(f"id @ {RAISED}", "0.95 to 1.0 on comparisons of 2WikiMultiHopQA", low=0.95),
        Target("gained on id", "the ratio as it is does not do", low=0.1),
        Target(f"ood @ {RAISED}", "not there: the bridge is not said", low=0.8),
        Target("gained on ood", "not there", low=0.1),
        Target(f"ood_atomic @ {RAISED}", "not there: the facts themselves are known", low=0.97),
    )
    costs: ClassVar = {
        "cpu": "6 runs of 3,000 steps, 5 to 9 minutes on one CPU core",
        "paper": "6 runs of 100,000 steps of a model of the paper's size, on GPUs",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        large = {"model.n_layer": "8", "model.n_embd": "768", "model.n_head": "12", "learning_rate": "1e-4"}
        budget = {
            "smoke": {"max_steps": "4", "eval_steps": "2", "global_batch_size": "32", "model.n_layer": "1"},
            "cpu": {"max_steps": "3000", "eval_steps": "100"},
            "paper": {**large, "max_steps": "100000", "eval_steps": "1000", "warmup_steps": "2000"},
        }[self.budget]
        shared = {"stop_when": "never", "checkpoints.every": "[]", "checkpoints.powers_of_two": "false", **budget}
        return {arm: {"corpus.invented": count, **shared} for arm, count in {ALONE: "0", RAISED: "1000"}.items()}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        ends = {split: run.at_end(split, "exact_match") for split in SPLITS}
        return {**ends, "fit_step": run.grok.fit_step, "gen_step": run.grok.gen_step}

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if target.name.startswith("gained on "):
            pairs = found.pairs(target.name.removeprefix("gained on "), RAISED, ALONE)
            return [None if one is None or other is None else one - other for one, other in pairs]
        return super().numbers(target, found)

    def draw(self, found: Found) -> Drawing:
        words = (
            "Exact match over training steps on compositions of a file's facts that are held out (id), and of facts "
        )
        words += (
            "that are never composed in training (ood), with the file alone and with 1,000 invented facts beside it."
        )
        return curves(
            found, {f"{split}, {arm}": (arm, split) for split in ("id", "ood") for arm in (RAISED, ALONE)}, words
        )
