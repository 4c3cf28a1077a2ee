"""Which pairs of graphs a small GPT tells apart, by rounds of refinement (data of Hammond & Adam-Day 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._curves import curves
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder

ARM = "matrix"
KINDS = ("isomorphic", "rounds_1", "rounds_2", "rounds_more")


@dataclass(frozen=True)
class Hammond2024Interactive(Claim):
    """Pairs of graphs by the rounds of colour refinement that tell them apart, and of larger graphs."""

    paper: ClassVar = Paper("Hammond & Adam-Day 2024", "2412.08897", "section 5; the data alone, without a prover")
    recipe: ClassVar = "graph_isomorphism"
    targets: ClassVar = (
        Target(f"rounds_1 @ {ARM}", "a verifier of two layers tells these apart alone", low=0.9),
        Target(f"rounds_2 @ {ARM}", "a verifier of two layers tells these apart alone", low=0.9),
        Target("one round over more than two", "a verifier of two layers cannot tell the latter apart", low=0.1),
        Target("lost in size", "not there", low=0.1),
    )
    costs: ClassVar = {
        "cpu": "3 runs of 1,500 steps, 6 minutes on one CPU core",
        "paper": "3 runs of 50,000 steps, on a GPU",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": {"corpus.pairs": "100", "corpus.test_pairs": "40", "max_steps": "2", "eval_steps": "2",
                      "global_batch_size": "16", "model.n_layer": "1"},
            "cpu": {"corpus.max_vertices": "6", "corpus.ood_vertices": "7", "corpus.pairs": "20000",
                    "corpus.test_pairs": "1000", "max_steps": "1500", "eval_steps": "500", "model.n_layer": "2",
                    "model.n_embd": "64", "model.dropout": "0", "learning_rate": "1e-3", "warmup_steps": "100",
                    "max_eval_samples": "500", "save_steps": "10000"},
            "paper": {},
        }[self.budget]  # fmt: skip
        return {ARM: {"checkpoints.every": "[]", "checkpoints.powers_of_two": "false", **budget}}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        return {split: run.at_end(split, "exact_match") for split in ("train", "id", "ood", *KINDS)}

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        pairs = {"one round over more than two": ("rounds_1", "rounds_more"), "lost in size": ("id", "ood")}
        if target.name not in pairs:
            return super().numbers(target, found)
        first, second = (found.values(split, ARM) for split in pairs[target.name])
        return [None if one is None or other is None else one - other for one, other in zip(first, second)]

    def draw(self, found: Found) -> Drawing:
        words = "Exact match over training steps on held-out pairs of graphs: isomorphic ones, those that one, two or "
        words += "more rounds of refinement tell apart, and pairs of larger graphs (ood)."
        return curves(found, {split: (ARM, split) for split in (*KINDS, "ood")}, words)
