"""A run as its folder tells it, finished or not: what a report reads."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.corpora.store import INDEX
from pipeline.runs.folder import CORPUS, RECIPE, read_resolved, read_starts
from pipeline.runs.grokking import PROBE, GrokTracker, judged_split, match_key
from pipeline.runs.manifest import Manifest
from pipeline.runs.metrics import LAST_STEP, Series, read_series
from pipeline.utils.errors import RecipeError
from pipeline.utils.inside import exists, read_json

T = TypeVar("T")


@dataclass(frozen=True)
class Results:
    """What was asked for, what it ran on, and every number that was logged."""

    path: Path
    recipe: dict[str, Any]
    total_steps: int
    corpus: dict[str, Any]
    starts: list[dict[str, Any]]  # one environment for each time the run was started
    series: dict[str, Series]
    manifest: Manifest
    grok: GrokTracker

    @classmethod
    def read(cls, path: Path) -> Results:
        """A run folder; it may lack an environment, metrics and kept steps.

        Raises:
            RecipeError: when it is not that of a run, or a file in it is damaged.
        """
        if not exists(path, RECIPE):
            raise RecipeError(str(path), f"is not the folder of a run: it has no {RECIPE}")
        corpus = _part(path, f"{CORPUS}/{INDEX}", lambda: _corpus(read_json(path, f"{CORPUS}/{INDEX}")))
        recipe, total_steps = _part(path, RECIPE, lambda: _recipe(read_resolved(path), corpus["sizes"]["train"]))
        starts, manifest, series = read_starts(path), Manifest.load(path), read_series(path)
        # Counted where it was trained, replayed rows and all; earlier code wrote no number.
        counted = [start["total_steps"] for start in starts if type(start.get("total_steps")) is int]
        total_steps = (counted or [total_steps])[-1]
        return cls(path, recipe, total_steps, corpus, starts, series, manifest, _tracked(series, corpus["held_out"]))

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def splits(self) -> list[str]:
        return list(self.corpus["sizes"])

    @property
    def held_out(self) -> list[str]:
        return self.corpus["held_out"]

    @property
    def fact_probes(self) -> dict[str, str]:
        """Held-out splits whose facts are trained -> the probe of `train` that says how many of these are known."""
        probes = {split: f"{split}_atomic" for split in self.held_out}
        return {split: probe for split, probe in probes.items() if probe in self.splits and probe not in self.held_out}

    @property
    def last_step(self) -> int:
        """The last step at which something was logged; 0 before that."""
        return max((steps[-1] for steps, _ in self.series.values()), default=0)

    @property
    def finished(self) -> bool:
        """Whether all rows were measured at the last step; a run that was made longer is not finished by its past."""
        series = self.series.get(match_key("train", "final"))
        return series is not None and series.steps[-1] == self.last_step

    def latest(self, key: str) -> float | None:
        """The last value that was logged of a key; NaN where it was not finite, None where there is none."""
        return self.series[key].values[-1] if key in self.series else None

    def at_end(self, split: str, what: str) -> float | None:
        """`exact_match` or `loss` of a split: on all its rows once the run is finished, until then as last seen."""
        return self.latest(f"{'final' if self.finished else 'eval'}_{split}_{what}")

    def rows(self, split: str, sampled: bool) -> int:
        """Rows of a split that an evaluation looks at: while training (`sampled`), or at the end."""
        most = self.recipe.get("max_eval_samples") if sampled else None
        size = self.corpus["sizes"][split]
        return min(size, most or size, PROBE if split == "train" else size)

    @property
    def evaluations(self) -> list[int]:
        """The steps at which the splits were measured while training."""
        return list(self.series[match_key("train")].steps) if match_key("train") in self.series else []


def _recipe(recipe: dict[str, Any], rows: int) -> tuple[dict[str, Any], int]:
    """The recipe, and the updates of the whole run, also where it counts epochs of a corpus of so many rows."""
    steps, epoch = recipe.get("max_steps", -1), -(-rows // recipe["global_batch_size"])
    return recipe, steps if steps > 0 else math.ceil(recipe["num_train_epochs"] * epoch)


def _corpus(facts: dict[str, Any]) -> dict[str, Any]:
    sizes = {**facts["sizes"]}
    if not all(type(size) is int and 0 < size < LAST_STEP for size in sizes.values()):
        raise ValueError("sizes")
    if not isinstance(facts["name"], str) or not isinstance(facts["content_hash"], str):
        raise ValueError("name")
    if not all(isinstance(split, str) for split in facts["held_out"]):
        raise ValueError("held_out")
    if not all(re.fullmatch(r"\w{1,100}", str(name), re.ASCII) for name in (facts["name"], *sizes, *facts["held_out"])):
        raise ValueError("name")  # every corpus that is built has such names; they become names of files
    return {**facts, "sizes": {"train": sizes["train"], **sizes}, "held_out": [*facts["held_out"]]}


def _part(run: Path, name: str, parse: Callable[[], T]) -> T:
    """What a file of a run folder says."""
    try:
        return parse()
    except FileNotFoundError:
        raise RecipeError(str(run / name), "is missing, so this is not the folder of a run") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError):
        raise RecipeError(str(run / name), "is damaged") from None


def _tracked(series: dict[str, Series], held_out: Sequence[str]) -> GrokTracker:
    tracker = GrokTracker(judged_split(held_out))
    keys = [match_key(split) for split in ("train", tracker.held_out) if split]
    matches = {key: dict(zip(*series[key])) for key in keys if key in series}
    for step in sorted({step for values in matches.values() for step in values}):
        tracker.update(step, {key: values.get(step) for key, values in matches.items()})
    return tracker
