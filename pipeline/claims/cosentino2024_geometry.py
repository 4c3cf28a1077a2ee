"""Heads attend to more tokens the more examples there are, and more where the answer is right (Cosentino 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.circuits.attention_density import ALL
from pipeline.circuits.tables import by_step
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.attention_density import RANDOM, layers_of, over_shots, shots
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder

ARM = "few shots"


@dataclass(frozen=True)
class Cosentino2024Geometry(Claim):
    """The number of tokens with attention above 0.1, over examples in context, and where the answer is right."""

    paper: ClassVar = Paper("Cosentino & Shekkizhar 2024", "2407.02678", "section 4, figures 4 to 6, of Llama 3")
    recipe: ClassVar = "few_shot"
    targets: ClassVar = (
        Target(f"right @ {ARM}", "not in the paper: labels are learned in context", low=0.7),
        Target(f"most @ {ARM}", "at most 10 for each head: attention adds up to 1", high=10),
        Target(f"rise @ {ARM}", "rises with examples: all of them against none, in the last block", low=1.2),
        Target(f"rising @ {ARM}", "shot by shot: correlation of the last block's number with the examples", low=0.8),
        Target(f"relation @ {ARM}", "more go with a right answer: correlation at the same position", low=0.1),
        Target(f"relation_first @ {ARM}", "not in the first block", high=0.1),
        Target(
            f"over_random @ {ARM}", "random tokens raise the first block alone: rise of the last one by theirs", low=1.5
        ),
    )
    costs: ClassVar = {"cpu": "3 runs, 6 minutes on one CPU core", "paper": "3 runs of 20,000 steps, on GPUs"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        looked = "{{attention_density: {{steps: last, pairs: {}}}}}"
        budget = {
            "smoke": {
                "max_steps": "4", "eval_steps": "2", "global_batch_size": "16", "corpus.rows": "200",
                "corpus.id_rows": "50", "corpus.shots": "4", "checkpoints.powers_of_two": "false",
                "circuits": looked.format(20),
            },
            "cpu": {"checkpoints.powers_of_two": "false", "circuits": looked.format(1000)},
            "paper": {
                "max_steps": "20000", "model.preset": "pythia-410m", "model.n_layer": "null", "model.n_embd": "null",
                "model.n_head": "null", "learning_rate": "3e-4", "corpus.rows": "1000000", "corpus.inputs": "16",
                "corpus.labels": "16", "corpus.shots": "60", "model.n_positions": "128",
                "circuits": looked.format(1000),
            },
        }[self.budget]  # fmt: skip
        return {ARM: budget}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        table = _table(run)
        first, last = layers_of(table)[0], layers_of(table)[-1]
        density = over_shots(table, "density", last)
        random = over_shots(table, "density", last, RANDOM).values[-1]
        counted = table.filter(pc.field("measure") == "most")["value"]
        related = {layer: over_shots(table, "relation", layer).values for layer in (first, last)}
        return {
            "most": pc.max(counted).as_py(),
            "rise": density.values[-1] / density.values[0],
            "rising": _correlation(density.values),
            "relation": fmean(related[last]) if related[last] else None,
            "relation_first": fmean(related[first]) if related[first] else None,
            "over_random": (density.values[-1] - density.values[0]) / max(random - density.values[0], 1e-9),
            "right": over_shots(table, "right", ALL).values[-1],
        }

    def draw(self, found: Found) -> Drawing:
        words = "Tokens with attention above 0.1 from the inputs of examples, all heads of a block together, and the "
        words += "share of right next tokens, over examples in context; each seed thin, their mean thick."
        return Drawing(shots([_table(one.run) for one in found.arms[ARM]]), words, words)


def _table(run: RunFolder) -> pa.Table:
    """The table of a run's last step."""
    tables = by_step(run.path, "attention_density")
    return tables[max(tables)]


def _correlation(values: Sequence[float]) -> float:
    """Of values with their number."""
    found = np.asarray(values, np.float64)
    return float(np.corrcoef(found, np.arange(len(found)))[0, 1]) if found.std() > 0 else 0.0
