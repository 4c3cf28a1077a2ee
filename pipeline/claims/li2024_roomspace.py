"""Relations of objects that follow from chains of facts, by hops and by view of the room (Li et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._curves import curves
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder

ARM = "two views"
SPLITS = ("train", "id", "above_2", "above_3", "above_4", "above_5", "door_2", "door_3", "objects", "mixed")
# What is lost -> the splits with more and with less of it.
LOST = {
    "lost from two to five hops": ("above_2", "above_5"),
    "lost at three hops from the door, where two are trained": ("above_3", "door_3"),
    "lost with facts from both places": ("id", "mixed"),
    "lost with more objects": ("id", "objects"),
}


@dataclass(frozen=True)
class Li2024Roomspace(Claim):
    """Sets of relations that facts allow, from above and from the door; up to three hops, or two, are trained."""

    paper: ClassVar = Paper(
        "Li, Hogg & Cohn 2024", "2405.15064", "abstract; theirs asks models that were not trained for it"
    )
    recipe: ClassVar = "rooms_grid"
    targets: ClassVar = (
        Target(f"id @ {ARM}", "not there: what is trained", low=0.9),
        Target("lost from two to five hops", "many hops are what models fail at", low=0.1),
        Target("lost at three hops from the door, where two are trained", "not there", low=0.05),
        Target("lost with facts from both places", "mixed views are what models fail at", low=0.1),
        Target("lost with more objects", "not there as one number", low=0.1),
    )
    costs: ClassVar = {
        "cpu": "3 runs of 1,500 steps, 6 minutes on one CPU core",
        "paper": "3 runs of 50,000 steps with zones, on a GPU",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": {"corpus.train_rows": "200", "corpus.test_rows": "20", "max_steps": "2", "eval_steps": "2",
                      "global_batch_size": "16", "model.n_layer": "1"},
            "cpu": {"corpus.questions": "[where]", "model.n_embd": "96", "learning_rate": "2e-3", "max_steps": "1500",
                    "eval_steps": "500", "max_eval_samples": "300", "save_steps": "10000"},
            "paper": {"corpus.zones": "true", "corpus.beside": "3", "corpus.train_rows": "500000", "model.n_layer": "8",
                      "model.n_embd": "512", "model.n_head": "8", "model.n_positions": "80", "max_steps": "50000",
                      "eval_steps": "1000", "learning_rate": "3e-4", "warmup_steps": "1000"},
        }[self.budget]  # fmt: skip
        return {ARM: {"checkpoints.every": "[]", "checkpoints.powers_of_two": "false", **budget}}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        return {split: run.at_end(split, "exact_match") for split in SPLITS}

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if target.name not in LOST:
            return super().numbers(target, found)
        more, less = (found.values(split, ARM) for split in LOST[target.name])
        return [None if one is None or other is None else one - other for one, other in zip(more, less)]

    def draw(self, found: Found) -> Drawing:
        words = "Exact match over training steps on held-out questions of two to five hops from above, three from the "
        words += "door, with facts as seen from either place (mixed), and with more objects than are trained."
        splits = ("above_2", "above_3", "above_4", "above_5", "door_3", "mixed", "objects")
        return curves(found, {split: (ARM, split) for split in splits}, words)
