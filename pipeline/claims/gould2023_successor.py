"""Heads come up in training that turn elements of ordered sets into their successors, by their weights alone.

Gould et al. 2024, "Successor Heads" (arXiv 2312.09230), sections 2 and 3.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from pipeline.circuits.tables import by_step
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.axes import StepScale
from pipeline.plots.base import Drawing
from pipeline.plots.seeds import Group, comparison
from pipeline.plots.style import GREY, HUES
from pipeline.plots.successor import ALL, Head, scores
from pipeline.runs.folder import RunFolder
from pipeline.runs.metrics import Series

ARM = "labelled sets"


@dataclass(frozen=True)
class Gould2023Successor(Claim):
    """The share of ordered elements whose successor a head's own path ranks first, over training."""

    paper: ClassVar = Paper("Gould et al. 2024", "2312.09230", "figures 2 and 3: the best head of Pythia 1.4B")
    recipe: ClassVar = "ordinals"
    targets: ClassVar = (
        Target(f"best_at_start @ {ARM}", "chance, before it comes up", high=0.15),
        Target(f"best @ {ARM}", "well above all other heads' at the end", low=0.8),
        Target(f"sets @ {ARM}", "one head for numbers, days, months and letters: lowest score of a set", low=0.7),
        Target(f"other_layer @ {ARM}", "near 0: heads before the elements have been read", high=0.3),
        Target(f"over_runner_up @ {ARM}", "about 8: one head, not several", low=2),
    )
    costs: ClassVar = {"cpu": "3 runs, 3 minutes on two CPU cores", "paper": "3 runs of 20,000 steps, on GPUs"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": {"max_steps": "4", "eval_steps": "2", "global_batch_size": "16", "corpus.rows": "300",
                      "corpus.held_out_rows": "40", "corpus.numbers": "5", "checkpoints.every": "[]"},
            "cpu": {},
            "paper": {"max_steps": "20000", "model.preset": "pythia-160m", "model.n_layer": "null",
                      "model.n_embd": "null", "model.n_head": "null", "learning_rate": "6e-4", "corpus.numbers": "200",
                      "corpus.rows": "1000000"},
        }[self.budget]  # fmt: skip
        return {ARM: budget}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        tables = by_step(run.path, "successor")
        first, last = (scores(tables[step]) for step in (min(tables), max(tables)))
        best, *others = last
        names = {*tables[max(tables)]["set"].to_pylist()} - {ALL}
        return {
            "best_at_start": max(first.values()),
            "best": last[best],
            "sets": min(scores(tables[max(tables)], name)[best] for name in names),
            "other_layer": max(score for (layer, _), score in last.items() if layer == 0),
            "over_runner_up": last[best] / max(last[others[0]], 1e-9),
            "id_accuracy": run.at_end("id", "exact_match"),
        }

    def draw(self, found: Found) -> Drawing:
        runs = [by_step(one.run.path, "successor") for one in found.arms[ARM]]
        best = [_curve(tables, next(iter(scores(tables[max(tables)])))) for tables in runs]
        other = [_curve(tables, next(head for head in scores(tables[max(tables)]) if head[0] == 0)) for tables in runs]
        groups = [Group("best head", best, HUES[0]), Group("best of the first layer", other, GREY)]
        scale = StepScale.over(max(run.steps[-1] for run in best), best)
        words = "Share of the elements of ordered sets whose successor a head's path to the logits ranks first, over "
        words += "training steps: of the head that is best at the end, and of the best in the first layer."
        return Drawing(comparison(groups, None, scale), words, words)


def _curve(tables: Mapping[int, pa.Table], head: Head) -> Series:
    """The score of a head over steps."""
    values = {step: scores(table)[head] for step, table in sorted(tables.items())}
    return Series(array("q", values), array("d", values.values()))
