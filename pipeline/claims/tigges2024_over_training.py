"""Behaviours and their circuits come up at like numbers of tokens in two sizes, and stay (Tigges et al. 2024)."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any, ClassVar

import pyarrow.compute as pc

from pipeline.circuits.tables import by_step, read_table
from pipeline.claims._curves import first_step, over_arms
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.plots.components import SUPPRESSES, best, direct_share, inhibition_share, movers, suppressors
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import match_key
from pipeline.runs.metrics import Series

SMALL, LARGE = "2 layers", "3 layers"
TASKS = ("ioi", "gendered_pronoun", "agreement")  # greater years are drawn, so that there is no one right answer
CIRCUITS = (*TASKS, "greater_than")
CIRCUIT = "ioi"  # whose edges are compared from step to step, and whose components are looked at
KNOWN = 0.9  # exact match
SHARE = 0.2  # of the edges
FAITHFUL = 0.8  # normalized faithfulness
# The score of the best head from which on a component is there.
COMPONENTS = {"copying": 0.5, "copy suppression": SUPPRESSES}


@dataclass(frozen=True)
class Tigges2024OverTraining(Claim):
    """When four behaviours are there, and how circuits of one of them change, in models of two sizes."""

    paper: ClassVar = Paper("Tigges et al. 2024", "2407.10827", "sections 3 and 4, of Pythia 70M to 2.8B")
    recipe: ClassVar = "behaviours"
    targets: ClassVar = (
        *(Target(f"tokens to {task}: large by small", "about 1: as many tokens", low=0.5, high=2) for task in TASKS),
        *(
            Target(f"tokens to a circuit of {task}: large by small", "about 1", low=0.5, high=2)
            for task in CIRCUITS
        ),
        *(
            Target(f"tokens to {name}: large by small", "about 1: components come with as many tokens", low=0.5, high=2)
            for name in COMPONENTS
        ),
        *(
            target
            for size in (SMALL, LARGE)
            for target in (
                Target(f"absent_at_start @ {size}", "no behaviour, so no circuit", low=1),
                *(
                    Target(f"faithful {task} @ {size}", "circuits are found from then on", low=FAITHFUL)
                    for task in CIRCUITS
                ),
                Target(f"like_the_step_before @ {size}", "edges change little (Jaccard), and less if larger", low=0.5),
                Target(f"movers and suppressors @ {size}", "> 0.7 of the logit difference, directly", low=0.7),
                Target(f"S-inhibition @ {size}", "> 0.5 of it, through the name movers' queries", low=0.5),
                Target(f"heads_that_leave @ {size}", "heads swap while the algorithm stays", low=1),
                Target(f"stable @ {size}", "not said: edges that stay with other pairs", low=0.5),
            )
        ),
        Target(f"early_like_last @ {SMALL}", "not said: what is scored before the behaviour is there", high=0.3),
        Target("edges of the circuit: large by small", "more in larger models (r = 0.72 to 0.9)", low=1),
    )  # fmt: skip
    costs: ClassVar = {"cpu": "6 runs, 12 minutes on one CPU core", "paper": "6 runs of 20,000 steps, on GPUs"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        common = {
            "smoke": {
                "max_steps": "4", "eval_steps": "2", "global_batch_size": "16", "corpus.rows": "400",
                "corpus.held_out_rows": "20", "checkpoints.every": "[[2, null]]", "checkpoints.powers_of_two": "false",
                "circuits.faithfulness.pairs": "8", "circuits.attribution.pairs": "8",
                "circuits.components.pairs": "8",
            },
            "cpu": {"max_steps": "300", "circuits.faithfulness.draws": "40", "circuits.faithfulness.shares": "[0.2]"},
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
        for task in CIRCUITS:
            rows = {step: _at_share(table, task) for step, table in tables.items()}
            there = [row["normalized"] for row in rows.values() if not row["absent"]]
            first = next((s for s, row in rows.items() if not row["absent"] and row["normalized"] >= FAITHFUL), None)
            found[f"tokens to a circuit of {task}"] = None if first is None else first * tokens_per_step(run)
            found[f"faithful {task}"] = fmean(there) if there else None
        rows = {step: _at_share(table, CIRCUIT) for step, table in tables.items()}
        there = [step for step, row in rows.items() if not row["absent"]]
        like = read_table(run.path, "similarity").to_pylist()
        late = [row["edges"] for row in like if row["to"] == "before" and row["to_step"] in there]
        early = [row["edges"] for row in like if row["to"] == "last" and row["step"] not in there]
        last = rows[max(rows)]
        edges, stable = (len((last[name] or "").split()) for name in ("smallest_edges", "stable_edges"))
        return {
            **found,
            **_components(run),
            "absent_at_start": float(rows[min(rows)]["absent"]),
            "like_the_step_before": fmean(late) if late else None,
            "early_like_last": fmean(early) if early else None,
            "edges of the circuit": last["smallest"],
            "stable": stable / edges if edges else None,
        }

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        key, compared, _ = target.name.partition(": large by small")
        return found.ratios(key, LARGE, SMALL) if compared else super().numbers(target, found)

    def draw(self, found: Found) -> Drawing:
        runs = {arm: [one.run for one in ones] for arm, ones in found.arms.items()}
        each: dict[str, Callable[[RunFolder], Series]] = {
            **{f"exact match: {task}": partial(_behaviour, task=task) for task in TASKS},
            **{f"edges of the smallest faithful circuit: {task}": partial(_edges, task=task) for task in CIRCUITS},
            "copying of the best head": partial(_component, measure=best("copying")),
            "copy suppression of the best head": partial(_component, measure=best("copy suppression")),
            "share of the logit difference that name movers and suppressors write": partial(
                _component, measure=_direct
            ),
        }
        panels = {
            title: {arm: [curve(run) for run in ones] for arm, ones in runs.items()} for title, curve in each.items()
        }
        figure = over_arms(panels)
        axes = figure.axes[-1]
        axes.set_xlabel(axes.get_xlabel().replace("training step", "trained tokens"))
        words = (
            "Exact match of three behaviours, how many edges the smallest circuits of four have whose faithfulness is "
            "0.8 (0 where the behaviour is absent), and what heads do in that of indirect objects, over trained "
            "tokens, mean over seeds."
        )
        return Drawing(figure, words, words)


def _direct(table: Any) -> float | None:
    """What name movers and heads that suppress copies write to the logits, as a share of what corruption changes."""
    found = [direct_share(table, heads) for heads in (movers, suppressors)]
    return sum(share or 0.0 for share in found) if found[0] is not None else None


def _components(run: RunFolder) -> dict[str, float | None]:
    """When components are there, what they bring at the end, and how many heads had a part in between and left."""
    tables = by_step(run.path, "components")
    last = tables[max(tables)]
    heads = [{*movers(table), *suppressors(table)} for table in tables.values()]
    found: dict[str, float | None] = {
        "movers and suppressors": _direct(last),
        "S-inhibition": inhibition_share(last) or 0.0,  # without name movers there is nothing that it could go through
        "heads_that_leave": float(len(set().union(*heads) - heads[-1])),
    }
    for name, level in COMPONENTS.items():
        first = next((step for step, table in tables.items() if (best(name)(table) or 0.0) >= level), None)
        found[f"tokens to {name}"] = None if first is None else first * tokens_per_step(run)
    return found


def tokens_per_step(run: RunFolder) -> float:
    """How many tokens a step trains on, in the mean: those of prompts and answers."""
    sizes = [(len(block), block.prompts.shape[1] + block.answers.shape[1]) for block in run.stored.blocks("train")]
    batch = run.recipe.options.global_batch_size
    assert batch is not None  # a recipe that was run says it
    return batch * sum(rows * length for rows, length in sizes) / sum(rows for rows, _ in sizes)


def _at_share(table: Any, task: str) -> Mapping[str, Any]:
    """The row of a table of `faithfulness` for the circuit of a fifth of the edges."""
    chosen = table.filter((pc.field("curve") == "circuit") & (pc.field("share") == SHARE) & (pc.field("split") == task))
    return dict(chosen.to_pylist()[0])


def _behaviour(run: RunFolder, task: str) -> Series:
    steps, values = run.series[match_key(task)]
    each = tokens_per_step(run)
    return Series(array("q", [round(step * each) for step in steps]), values)


def _edges(run: RunFolder, task: str) -> Series:
    tables = by_step(run.path, "faithfulness")
    return _by_tokens(run, {step: _at_share(table, task)["smallest"] or 0.0 for step, table in tables.items()})


def _component(run: RunFolder, measure: Callable[[Any], float | None]) -> Series:
    return _by_tokens(run, {step: measure(table) or 0.0 for step, table in by_step(run.path, "components").items()})


def _by_tokens(run: RunFolder, values: Mapping[int, float]) -> Series:
    each = tokens_per_step(run)
    return Series(array("q", [round(step * each) for step in values]), array("d", values.values()))
