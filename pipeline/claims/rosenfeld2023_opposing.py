"""Few rows with opposing answers make most of what a step changes, one group against another (Rosenfeld & Risteski)."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.claims._curves import over_arms
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder
from pipeline.runs.metrics import Series
from pipeline.utils.inside import MEGABYTE, read_json

FILE = "opposing_signals.json"  # of the callback, in a run folder
OPPOSED = ("A", "B")  # types of the rows of the corpus that oppose each other
# The mean loss of all rows from which on the ordinary ones are known, and where the opposing ones are, too.
EASY, LEARNED = 0.2, 0.01
MOVED = 0.1  # nats, in the mean over the rows that change most
ADAM = {"optim": "adamw_torch", "learning_rate": "3e-3", "warmup_steps": "10"}


@dataclass(frozen=True)
class Rosenfeld2023Opposing(Claim):
    """Full batches in which one row of twenty opposes another: by gradient descent, and by Adam."""

    paper: ClassVar = Paper("Rosenfeld & Risteski 2023", "2311.04163", "sections 2 and 4")
    recipe: ClassVar = "opposing_signals"
    targets: ClassVar = (
        Target("injected @ SGD", "outliers with a loud feature in common", low=0.8),
        Target("of groups @ SGD", "the groups found by their changes are these outliers", low=0.8),
        Target("opposed @ SGD", "one group's loss rises where the other's falls", low=0.7),
        Target("opposed where it moves @ SGD", "the same, of steps that change these rows by 0.1 nats", low=0.7),
        Target("rate x sharpness @ SGD", "about 2: as sharp as the rate can take", low=1, high=4),
        Target("strength: SGD to Adam", "Adam damps it", low=2),
    )
    costs: ClassVar = {"cpu": "6 runs, 5 minutes on one CPU core", "paper": "6 runs of 3,000 steps, on a GPU"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        watched = "{{opposing_signals: {{every: {}, top: {}, below: {}, iterations: {}}}}}"
        budget = {
            "smoke": {
                "max_steps": "4", "eval_steps": "2", "corpus.rows": "60", "corpus.loud": "6", "corpus.id_rows": "12",
                "global_batch_size": "60", "callbacks": watched.format(1, 12, 100, 2),
            },
            "cpu": {"callbacks": watched.format(2, 26, EASY, 20)},
            "paper": {
                "max_steps": "3000", "eval_steps": "300", "corpus.rows": "5120", "corpus.loud": "51",
                "corpus.vocabulary_size": "256", "corpus.length": "32", "global_batch_size": "5120",
                "model.n_layer": "4", "model.n_embd": "256", "model.n_head": "8", "model.n_positions": "32",
                "callbacks": "{opposing_signals: {every: 10, rows: 5120, top: 102, below: 0.2}}",
            },
        }[self.budget]  # fmt: skip
        return {"SGD": budget, "Adam": {**budget, **ADAM}}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        written = read_json(run.path, FILE, 64 * MEGABYTE)
        kinds = np.array([block.type for block in run.stored.blocks("train") for _ in range(len(block))])
        steps = _window(written["steps"])
        signs = [_opposed(kinds[step["rows"]], np.array(step["changes"])) for step in steps]
        moves = [np.abs(step["changes"]).mean() >= MOVED for step in steps]
        groups = [row for group in written["groups"].values() for row in group]
        rate = dict(zip(*run.series["learning_rate"])) if "learning_rate" in run.series else {}
        sharp = run.series["opposing_sharpness"]
        return {
            "injected": _mean([np.isin(kinds[step["rows"]], OPPOSED).mean() for step in steps]),
            "of groups": _mean(np.isin(kinds[groups], OPPOSED)),
            "opposed": _mean(signs),
            "opposed where it moves": _mean([sign for sign, moved in zip(signs, moves) if moved]),
            "rate x sharpness": sharp.values[-1] * rate[sharp.steps[-1]] if sharp.steps[-1] in rate else None,
            "strength": max((step["strength"] for step in steps), default=None),
            "watched": float(len(steps)),
            "cosine": run.latest("opposing_cosine"),
        }

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if target.name.startswith("strength:"):
            return found.ratios("strength", "SGD", "Adam")
        return super().numbers(target, found)

    def draw(self, found: Found) -> Drawing:
        runs: dict[str, dict[str, list[Series]]] = {}
        for arm, ones in found.arms.items():
            for one in ones:
                for title, curve in _curves(one.run).items():
                    runs.setdefault(title, {}).setdefault(arm, []).append(curve)
        words = "What a step changes, over training steps, mean over seeds: how much the losses of two groups of rows "
        words += "move against each other, the share of rows with opposing answers among those that change most, and "
        words += "the mean loss."
        return Drawing(over_arms(runs), words, words)


def _window(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The watched steps at which the ordinary rows are known and the opposing ones are not."""
    first = next((i for i, step in enumerate(steps) if step["loss"] <= EASY), len(steps))
    last = next((i for i, step in enumerate(steps) if step["loss"] <= LEARNED), len(steps))
    return steps[first:last]


def _opposed(kinds: Any, changes: Any) -> bool:
    """Whether the rows of one answer rise in the mean, and those of the other fall, among those that change most."""
    means = [changes[kinds == kind].mean() for kind in OPPOSED if (kinds == kind).any()]
    return len(means) == 2 and means[0] * means[1] < 0


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _curves(run: RunFolder) -> dict[str, Series]:
    kinds = np.array([block.type for block in run.stored.blocks("train") for _ in range(len(block))])
    written = read_json(run.path, FILE, 64 * MEGABYTE)["steps"]
    at = array("q", [step["step"] for step in written])
    injected = [float(np.isin(kinds[step["rows"]], OPPOSED).mean()) for step in written]
    return {
        "groups move against each other, in nats": Series(at, array("d", [step["strength"] for step in written])),
        "share of opposing rows among those that change most": Series(at, array("d", injected)),
        "mean loss, in nats": Series(at, array("d", [step["loss"] for step in written])),
    }
