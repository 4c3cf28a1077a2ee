"""Where the recipes of several runs differ, and what to call them by that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.identity import decides
from pipeline.config.recipe import flat
from pipeline.config.trainer_policy import FREE
from pipeline.runs.folder import RunFolder

# Keys by which runs are told apart only where nothing else differs: they say how long, and what is watched and kept.
# Callbacks that change what is trained are none of them.
LESSER = (*FREE, "max_steps", "checkpoints", "callbacks", "circuits")


@dataclass(frozen=True)
class Differences:
    """Where recipes differ: the values of each such key, in the order of the runs; None where one has no such key."""

    values: dict[str, list[Any]]
    labels: list[str]  # of each run, by what differs
    groups: list[list[int]]  # runs that differ in their seed alone, in the order of the first of each
    group_labels: list[str]

    @classmethod
    def of(cls, runs: Sequence[RunFolder]) -> Differences:
        recipes = [flat(run.resolved) for run in runs]
        keys = dict.fromkeys(key for recipe in recipes for key in recipe)
        skipped = ("output_dir", "run_name", "paper")
        values = {key: [recipe.get(key) for recipe in recipes] for key in keys if key.split(".")[0] not in skipped}
        values = {key: found for key, found in values.items() if any(value != found[0] for value in found)}
        main = {key: found for key, found in values.items() if _is_main(key, recipes)} or values
        labels = _unique(_labels(_telling(main, recipes), len(runs)), runs)
        without_seeds = {key: found for key, found in values.items() if not _is_seed(key)}
        groups: dict[Any, list[int]] = {}
        for i in range(len(runs)):
            alike = repr([found[i] for found in without_seeds.values()])
            groups.setdefault(alike if len(without_seeds) < len(values) else i, []).append(i)
        main = {key: found for key, found in main.items() if not _is_seed(key)} or without_seeds
        of_groups = _labels(_telling(main, recipes), len(runs))
        group_labels = [
            labels[members[0]] if len(members) == 1 else of_groups[members[0]] or f"{len(members)} seeds"
            for members in groups.values()
        ]
        return cls(values, labels, list(groups.values()), group_labels)

    @property
    def swept(self) -> str | None:
        """The one key beside seeds in which the runs differ, where it is a number."""
        keys = self._varied
        return keys[0] if len(keys) == 1 and all(map(is_number, self.values[keys[0]])) else None

    @property
    def crossed(self) -> tuple[str, str] | None:
        """The two keys beside seeds in which the runs differ, where their values are crossed."""
        keys = self._varied
        if len(keys) != 2 or any(None in self.values[key] for key in keys):
            return None
        first, second = ([as_text(value) for value in self.values[key]] for key in keys)
        is_crossed = len(set(zip(first, second))) > max(len(set(first)), len(set(second)))
        return (keys[0], keys[1]) if is_crossed else None

    @property
    def _varied(self) -> list[str]:
        return [key for key in self.values if not _is_seed(key) and not _is_lesser(key)]


def _is_main(key: str, recipes: Sequence[dict[str, Any]]) -> bool:
    """Whether a key says what was trained; one that an older recipe does not have yet says nothing for sure."""
    return not _is_lesser(key) and ("." in key or all(key in recipe for recipe in recipes))


def _is_lesser(key: str) -> bool:
    block = key.split(".")[0]
    return block in LESSER and not (block == "callbacks" and decides(key))


def _is_seed(key: str) -> bool:
    return key.rpartition(".")[2] in ("seed", "data_seed")


def _telling(values: dict[str, list[Any]], recipes: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The keys to name runs by: all, or of many as few as tell them apart, beginning with names and what all have."""
    if len(values) <= 3:
        return values
    order = sorted(values, key=lambda key: (not key.endswith(".name"), any(key not in recipe for recipe in recipes)))
    chosen: dict[str, list[Any]] = {}
    for key in order:
        if _kinds({**chosen, key: values[key]}) > _kinds(chosen):
            chosen[key] = values[key]
    return chosen


def _kinds(values: dict[str, list[Any]]) -> int:
    """How many runs these keys tell apart."""
    return len({repr(found) for found in zip(*values.values())}) if values else 1


def _labels(values: dict[str, list[Any]], runs: int) -> list[str]:
    names = short_names(values)
    return [
        ", ".join(f"{names[key]} {as_text(found[i])}".strip() for key, found in values.items() if found[i] is not None)
        for i in range(runs)
    ]


def _unique(labels: list[str], runs: Sequence[RunFolder]) -> list[str]:
    """The labels; those that are empty or not the only one of their kind with the name of the run's folder."""
    names = [run.name for run in runs]
    names = names if len(set(names)) == len(runs) else [str(run.path) for run in runs]
    return [
        label if label and labels.count(label) == 1 else f"{label} {name}".strip() for label, name in zip(labels, names)
    ]


def short_names(keys: Sequence[str] | dict[str, Any]) -> dict[str, str]:
    """Keys without their block where that says enough, and nothing for a name, whose value speaks for itself."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: "" if end == "name" else end if last.count(end) == 1 else key for key, end in zip(keys, last)}


def as_text(value: Any) -> str:
    """A value of a recipe as a label."""
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
