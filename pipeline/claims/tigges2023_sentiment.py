"""What a review says is told along one direction, which commas carry too (Tigges et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from pipeline.circuits.directions import ALL, DAS
from pipeline.circuits.tables import read_table
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.plots.directions import RANDOM, bars, cosines, values
from pipeline.runs.folder import RunFolder

ARM = "reviews"
COMMA = "comma"  # the place
PLACES = (ALL, "adjective", "and", COMMA, "opener", "quite")


@dataclass(frozen=True)
class Tigges2023Sentiment(Claim):
    """Directions of praise and blame before the last block, and what is left without them, by place."""

    paper: ClassVar = Paper("Tigges et al. 2023", "2310.15154", "sections 3 and 4, of Pythia 2.8B on SST")
    recipe: ClassVar = "reviews"
    targets: ClassVar = (
        Target(f"least_cosine @ {ARM}", "methods agree: high", low=0.7),
        Target(f"cosine_of_das @ {ARM}", "so does the one that is found by swapping", low=0.7),
        Target(f"patched @ {ARM}", "one coordinate moves the answer", low=0.7),
        Target(f"removed @ {ARM}", "0.76 of the accuracy above chance, at all positions", low=0.7),
        Target(f"removed_at_commas @ {ARM}", "0.36, at commas alone", low=0.1),
        Target(f"removed_at_random @ {ARM}", "nothing: a random direction, at all positions", high=0.05),
        Target(f"patched_at_random @ {ARM}", "nothing", high=0.05),
    )
    costs: ClassVar = {"cpu": "3 runs, 3 minutes on one CPU core", "paper": "3 runs of 20,000 steps, on GPUs"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        looked = "{{directions: {{steps: last, pairs: {}, das_steps: {}}}}}"
        budget = {
            "smoke": {
                "max_steps": "4", "eval_steps": "2", "global_batch_size": "16", "corpus.rows": "200",
                "corpus.id_rows": "60", "corpus.clauses": "1", "circuits": looked.format(24, 2),
            },
            "cpu": {"circuits": looked.format(300, 40)},
            "paper": {
                "max_steps": "20000", "model.preset": "pythia-160m", "model.n_layer": "null", "model.n_embd": "null",
                "model.n_head": "null", "learning_rate": "6e-4", "corpus.rows": "1000000", "corpus.clauses": "5",
                "model.n_positions": "64", "circuits": looked.format(500, 64),
            },
        }[self.budget]  # fmt: skip
        return {ARM: budget}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        table, layer, last = _table(run)
        alike = cosines(table, layer, last)
        das = alike.pop(DAS, None)

        def at(measure: str, place: str = ALL, method: str = "mean difference") -> float | None:
            return values(table, measure, layer, method).get(place)

        return {
            "least_cosine": min(alike.values(), default=None),
            "cosine_of_das": das,
            "patched": at("patched"),
            "removed": at("removed"),
            "removed_at_commas": at("removed", COMMA),
            "removed_at_adjectives": at("removed", "adjective"),
            "removed_at_random": at("removed", method=RANDOM),
            "patched_at_random": at("patched", method=RANDOM),
            "id_accuracy": run.at_end("id", "exact_match"),
        }

    def draw(self, found: Found) -> Drawing:
        tables = [_table(one.run) for one in found.arms[ARM]]
        words = "What swapping, and removing, the coordinate along the direction of praise does before the last block, "
        words += "by place; means over seeds, each seed a dot."
        return Drawing(bars([table for table, *_ in tables], tables[0][1], PLACES), words, words)


def _table(run: RunFolder) -> tuple[pa.Table, int, int]:
    """The table of a run, its last block, and the last position of its prompts."""
    table = read_table(run.path, "directions")
    return table, max(table["layer"].to_pylist()) - 1, max(table["position"].to_pylist())
