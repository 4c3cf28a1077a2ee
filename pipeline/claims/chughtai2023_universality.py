"""Networks that multiply elements of a group do so by its representations, not all by the same ones.

Chughtai, Chan & Nanda 2023, "A Toy Model of Universality" (arXiv 2302.03025), sections 5 and 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.circuits.tables import by_step
from pipeline.claims.base import Claim, Found, Measured, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.plots.representations import PARTS, explained, shares, stacked
from pipeline.runs.folder import RunFolder

ARM = "D31"


@dataclass(frozen=True)
class Chughtai2023Universality(Claim):
    """What representations explain of embedding, unembedding and neurons, and which ones each seed has learned."""

    paper: ClassVar = Paper("Chughtai et al. 2023", "2302.03025", "table 1 and section 6")
    recipe: ClassVar = "group_d31"
    targets: ClassVar = (
        Target(f"id_accuracy @ {ARM}", "1.0", low=0.99),
        Target(f"embedding @ {ARM}", "0.986 (D59): the share that key representations explain", low=0.95),
        Target(f"unembedding @ {ARM}", "0.985 (D59)", low=0.95),
        Target(f"neurons @ {ARM}", "0.850 (D59)", low=0.7),
        Target(f"neurons_ab @ {ARM}", "0.109 (D59): of the product alone", low=0.05, high=0.2),
        Target(f"excluded_loss @ {ARM}", "6.0 (C113) to 17.8 (S5): without the product in the neurons", low=3),
        Target(f"restricted_loss @ {ARM}", "below the test loss: the product alone in the neurons", high=0.1),
        Target("other seeds with other representations", "9 sets in 50 seeds of S5", low=1),
    )
    costs: ClassVar = {
        "cpu": "3 runs, 4 minutes on two CPU cores",
        "paper": "12 runs of up to 250,000 steps, on GPUs",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        last = {"circuits.representations.steps": "last"}
        if self.budget == "smoke":
            few = {"corpus.group": "D5", "max_steps": "4", "eval_steps": "2", "checkpoints.every": "[]"}
            return {ARM: {**few, **last, "global_batch_size": "16", "model.n_embd": "16"}}
        if self.budget == "cpu":
            return {ARM: last}
        paper = {
            **last, "model.name": "gpt2_bare", "model.n_positions": "3", "learning_rate": "1e-3",
            "max_steps": "250000", "eval_steps": "1000", "save_steps": "10000",
        }  # fmt: skip
        # Group, share of its table, and all rows of that.
        sizes = {ARM: ("D59", "0.3", "4177"), "S5": ("S5", "0.6", "8640"), "A5": ("A5", "0.6", "2160"),
                 "C113": ("C113", "0.3", "3831")}  # fmt: skip
        return {
            arm: {**paper, "corpus.group": group, "corpus.train_fraction": share, "global_batch_size": rows}
            for arm, (group, share, rows) in sizes.items()
        }

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        table = by_step(run.path, "representations")[run.steps[-1]]
        found, of = explained(table), shares(table)
        values = {part.replace(" ", "_"): found[part] for part in (*PARTS, "logits")}
        losses = {f"{name}_loss": of[f"{name} loss"][""] for name in ("restricted", "excluded", "held-out")}
        return {**values, **losses, "id_accuracy": run.at_end("id", "exact_match")}

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if target.name.startswith("other"):
            sets = [keys(one) for one in found.arms[ARM]]
            return [float(sum(other != one for other in sets)) for one in sets]
        return super().numbers(target, found)

    def draw(self, found: Found) -> Drawing:
        bars = {arm: {f"seed {one.seed}": logits(one) for one in runs} for arm, runs in found.arms.items()}
        words = "Share of the logits' power along the characters of representations, by seed: which ones are learned."
        return Drawing(stacked(bars), words, words)


def keys(one: Measured) -> set[str]:
    """The key representations of a run."""
    return set(shares(by_step(one.run.path, "representations")[one.run.steps[-1]]).get("key", {}))


def logits(one: Measured) -> dict[str, float]:
    """The share of the logits' power of each key representation of a run."""
    of = shares(by_step(one.run.path, "representations")[one.run.steps[-1]])
    return {name: of["logits"][name] for name in of.get("key", {})}
