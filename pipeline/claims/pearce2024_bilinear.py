"""Bilinear MLPs grok as GPT-2's do, and few of their eigenvectors answer (Pearce et al. 2024, sections 3 and 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from pipeline.circuits.tables import read_table
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.plots.ranks import curve_of, ranks_over_seeds
from pipeline.runs.folder import RunFolder

KEPT = 0.95  # of the accuracy of the whole


@dataclass(frozen=True)
class Pearce2024Bilinear(Claim):
    """Addition modulo 97 with bilinear MLPs: how many eigenvectors, or neurons, of an answer keep the accuracy."""

    paper: ClassVar = Paper("Pearce et al. 2024", "2410.08417", "sections 3 and 4")
    recipe: ClassVar = "quickstart_bilinear"
    targets: ClassVar = (
        Target("error @ bilinear", "exact: an eigendecomposition", high=1e-5),
        Target("gen_step: bilinear to gpt2", "bilinear layers do nearly as well as others", low=0.33, high=3),
        Target("grok_gap @ bilinear", "not looked at", low=2),
        Target("eigenvectors @ bilinear", "about ten for a class of images", high=16),
        Target("neurons to eigenvectors @ bilinear", "not said", low=2),
    )
    costs: ClassVar = {
        "cpu": "6 runs, 4 minutes on one CPU core",
        "paper": "6 runs of a language model's size, on a GPU",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        pairs = "100" if self.budget == "smoke" else "1000"
        budget = {
            "smoke": {"max_steps": "4", "eval_steps": "2", "global_batch_size": "16"},
            "cpu": {"max_steps": "2000", "eval_steps": "50", "checkpoints.powers_of_two": "false"},
            # The sizes of the paper's smaller language model.
            "paper": {
                "max_steps": "20000", "model.n_layer": "6", "model.n_embd": "512", "model.n_head": "8",
                "learning_rate": "1e-3", "weight_decay": "0.1", "stop_when": "never",
            },
        }[self.budget]  # fmt: skip
        eigen = f"{{eigen: {{steps: last, pairs: {pairs}}}}}"
        return {
            "bilinear": {"circuits": eigen, **budget},
            "gpt2": {"model.name": "gpt2", "circuits": "{}", **budget},
        }

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        found: dict[str, float | None] = {
            "fit_step": run.grok.fit_step,
            "gen_step": run.grok.gen_step,
            "grok_gap": run.grok.grok_gap,
            "id": run.at_end("id", "exact_match"),
        }
        if run.resolved["circuits"]:
            table = read_table(run.path, "eigen")
            found |= {part: enough(table, part) for part in ("eigenvectors", "neurons")}
            found["error"] = table["error"][0].as_py()
        return found

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if target.name.startswith("gen_step: "):
            return found.ratios("gen_step", "bilinear", "gpt2")
        if target.name.startswith("neurons to"):
            values = [(one.values["neurons"], one.values["eigenvectors"]) for one in found.arms["bilinear"]]
            return [neurons / vectors if neurons and vectors else None for neurons, vectors in values]
        return super().numbers(target, found)

    def draw(self, found: Found) -> Drawing:
        tables = [read_table(one.run.path, "eigen") for one in found.arms["bilinear"]]
        curves = {part: [curve_of(table, part, "accuracy") for table in tables] for part in ("eigenvectors", "neurons")}
        words = "Accuracy on held-out pairs where the MLP is cut down to few eigenvectors, or to few neurons, for each "
        words += "answer."
        return Drawing(ranks_over_seeds("accuracy on held-out pairs", curves), words, words)


def enough(table: pa.Table, part: str) -> float | None:
    """The least rank from which on the accuracy is at least `KEPT` of that of all terms; None where that is 0."""
    ranks, values = curve_of(table, part, "accuracy")
    least = None
    for rank, value in zip(reversed(ranks), reversed(values)):
        if value < KEPT * values[-1] or not values[-1]:
            break
        least = float(rank)
    return least
