"""Analyses of several splits, whose pairs are joined and say each its split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.circuits.base import Analysis, Columns, Pairs, Source
from pipeline.config.fields import param
from pipeline.utils.errors import ParameterError

SPLIT = "split"  # the metadata that says it


@dataclass(frozen=True)
class OverSplits(Analysis):
    """An analysis of prompts of one split or of several."""

    split: str = param("id", "splits that the prompts are taken from, one or more with commas")

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.split.split(","))

    def check_split(self, known: Iterable[str]) -> None:
        known = list(known)
        for split in self.splits:
            if split not in known:
                raise ParameterError("split", f"no split {split!r}; allowed: {', '.join(known)}")

    def choose(self, source: Source) -> Pairs:
        parts = {split: source.pairs(split, self.pairs, self.seed) for split in self.splits}
        return joined(parts) if len(parts) > 1 else parts[self.split]


def each_split(pairs: Pairs, measured: Callable[[Pairs], Columns]) -> Columns:
    """The columns of each split's pairs below each other, with a column that names it where there are several."""
    if SPLIT not in pairs.metadata:
        return measured(pairs)
    found: dict[str, list[Any]] = {}
    names = [str(name) for name in pairs.metadata[SPLIT]]
    for split in dict.fromkeys(names):
        columns: Mapping[str, Any] = measured(_cut(pairs.take([name == split for name in names])))
        rows = len(next(iter(columns.values())))
        for name, values in {**columns, SPLIT: [split] * rows}.items():
            found.setdefault(name, []).extend(values)
    return found


def _cut(pairs: Pairs) -> Pairs:
    """The pairs no wider than their longest prompt."""
    width = int(pairs.lengths.max())
    sides = {name: getattr(pairs, name)[:, :width] for name in ("clean", "corrupted")}
    values = {name: part[:, :width] for name, part in pairs.values.items()}
    return dataclasses.replace(pairs, **sides, places=pairs.places[:width], values=values)


def joined(parts: Mapping[str, Pairs]) -> Pairs:
    """The pairs of several splits below each other, with those notes that all of them have."""
    pairs = list(parts.values())
    widest = max(pairs, key=lambda part: part.clean.shape[1])
    answer = max(part.answers.shape[1] for part in pairs)

    def column(name: str, size: int) -> Any:
        sides = [getattr(part, name) for part in pairs]
        # What fills a row up is never looked at.
        return np.concatenate([np.pad(side, ((0, 0), (0, size - side.shape[1])), "edge") for side in sides])

    notes = [name for name in pairs[0].notes if all(name in part.notes for part in pairs)]
    return Pairs(
        column("clean", widest.clean.shape[1]),
        column("corrupted", widest.clean.shape[1]),
        column("answers", answer),
        column("corrupted_answers", answer),
        {name: np.concatenate([part.notes[name] for part in pairs]) for name in notes},
        lengths=np.concatenate([part.lengths for part in pairs]),
        places=widest.places,
        metadata={SPLIT: [split for split, part in parts.items() for _ in range(len(part))]},
    )
