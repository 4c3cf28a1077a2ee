"""Behaviours and their circuits come up at like numbers of tokens in two sizes, and stay (Tigges et al. 2024)."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar

import pyarrow.compute as pc

from pipeline.circuits.tables import by_step, read_table
from pipeline.claims._curves import first_step, over_arms
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import match_key
from pipeline.runs.metrics import Series

SMALL, LARGE = "2 layers", "3 layers"
TASKS = ("ioi", "gendered_pronoun", "agreement")  # greater years are drawn, so that there is no one right answer
CIRCUIT = "ioi"  # whose circuits are looked at
KNOWN = 0.9  # exact match
SHARE = 0.2  # of the edges


@dataclass(frozen=True)
class Tigges2024OverTraining(Claim):
    """When four behaviours are there, and how circuits of one of them change, in models of two sizes."""

    paper: ClassVar = Paper("Tigges et al. 2024", "2407.10827", "sections 3 and 4, of Pythia 70M to 2.8B")
    recipe: ClassVar = "behaviours"
    targets: ClassVar = (
        *(Target(f"tokens to {task}: large by small", "about 1: as many tokens", low=0.5, high=2) for task in TASKS),
        Target(f"absent_at_start @ {SMALL}", "no behaviour, so no circuit", low=1),
        Target(f"absent_at_start @ {LARGE}", "no behaviour, so no circuit", low=1),
        Target(f"faithful @ {SMALL}", "circuits are found from then on: normalized faithfulness of a fifth", low=0.8),
        Target(f"faithful @ {LARGE}", "circuits are found from then on", low=0.8),
        Target(f"like_the_step_before @ {SMALL}", "they change little: Jaccard similarity of edges", low=0.5),
        Target(f"like_the_step_before @ {LARGE}", "they change less in larger models", low=0.5),
        Target(f"early_like_last @ {SMALL}", "not said: what is scored before the behaviour is there", high=0.3),
        Target("edges of the circuit: large by small", "more in larger models (r = 0.72 to 0.9)", low=1),
    )  # fmt: skip
    costs: ClassVar = {"cpu": "6 runs, 6 minutes on one CPU core", "paper": "6 runs of 20,000 steps, on GPUs"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        common = {
            "smoke": {
                "max_steps": "4", "eval_steps": "2", "global_batch_size": "16", "corpus.rows": "400",
                "corpus.held_out_rows": "20", "checkpoints.every": "[[2, null]]", "checkpoints.powers_of_two": "false",
                "circuits.faithfulness.pairs": "8", "circuits.attribution.pairs": "8",
            },
            "cpu": {"max_steps": "300"},
            "paper": {
                "max_steps": "20000", "corpus.rows": "1000000", "checkpoints.every": "[[1000, null]]",
                "model.n_head": "null", "learning_rate": "6e-4", "eval_steps": "200",
            },
        }[self.budget]  # fmt: skip
        sizes = {SMALL: {}, LARGE: {"model.n_layer": "3", "model.n_embd": "96"}}
        if self.budget == "paper":
            named = {SMALL: "pythia-70m", LARGE: "pythia-160m"}
            sizes = {
                arm: {"model.preset": preset, "model.n_layer": "null", "model.n_embd": "null"}
                for arm, preset in named.items()
            }
        return {arm: {**common, **size} for arm, size in sizes.items()}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        onset = {task: first_step(run.series[match_key(task)], KNOWN) for task in TASKS}
        found: dict[str, float | None] = {
            f"tokens to {task}": None if step is None else step * tokens_per_step(run) for task, step in onset.items()
        }
        tables = by_step(run.path, "faithfulness")
        rows = {step: _at_share(table) for step, table in tables.items()}
        there = [step for step, row in rows.items() if not row["absent"]]
        like = read_table(run.path, "similarity").to_pylist()
        late = [row["edges"] for row in like if row["to"] == "before" and row["to_step"] in there]
        early = [row["edges"] for row in like if row["to"] == "last" and row["step"] not in there]
        last = rows[max(rows)]
        return {
            **found,
            "absent_at_start": float(rows[min(rows)]["absent"]),
            "faithful": fmean(rows[step]["normalized"] for step in there) if there else None,
            "like_the_step_before": fmean(late) if late else None,
            "early_like_last": fmean(early) if early else None,
            "edges of the circuit": last["smallest"],
        }

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        key, compared, _ = target.name.partition(": large by small")
        return found.ratios(key, LARGE, SMALL) if compared else super().numbers(target, found)

    def draw(self, found: Found) -> Drawing:
        runs = {arm: [one.run for one in ones] for arm, ones in found.arms.items()}
        panels = {
            f"exact match: {task}": {arm: [_behaviour(run, task) for run in each] for arm, each in runs.items()}
            for task in TASKS
        }
        title = f"edges of the smallest faithful circuit of {CIRCUIT}"
        panels[title] = {arm: [_edges(run) for run in each] for arm, each in runs.items()}
        figure = over_arms(panels)
        axes = figure.axes[-1]
        axes.set_xlabel(axes.get_xlabel().replace("training step", "trained tokens"))
        words = (
            "Exact match of three behaviours, and how many edges the smallest circuit of indirect objects has whose "
        )
        words += "faithfulness is 0.8 (0 where the behaviour is absent), over trained tokens, mean over seeds."
        return Drawing(figure, words, words)


def tokens_per_step(run: RunFolder) -> float:
    """How many tokens a step trains on, in the mean: those of prompts and answers."""
    sizes = [(len(block), block.prompts.shape[1] + block.answers.shape[1]) for block in run.stored.blocks("train")]
    batch = run.recipe.options.global_batch_size
    assert batch is not None  # a recipe that was run says it
    return batch * sum(rows * length for rows, length in sizes) / sum(rows for rows, _ in sizes)


def _at_share(table: Any) -> Mapping[str, Any]:
    """The row of a table of `faithfulness` for the circuit of a fifth of the edges."""
    chosen = table.filter((pc.field("curve") == "circuit") & (pc.field("share") == SHARE))
    return dict(chosen.to_pylist()[0])


def _behaviour(run: RunFolder, task: str) -> Series:
    steps, values = run.series[match_key(task)]
    each = tokens_per_step(run)
    return Series(array("q", [round(step * each) for step in steps]), values)


def _edges(run: RunFolder) -> Series:
    each = tokens_per_step(run)
    found = {
        round(step * each): _at_share(table)["smallest"] or 0.0
        for step, table in by_step(run.path, "faithfulness").items()
    }
    return Series(array("q", found), array("d", found.values()))
