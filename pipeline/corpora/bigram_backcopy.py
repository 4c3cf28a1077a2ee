"""Bigrams, and tokens after which the one before them comes again: the Bigram-Backcopy task of Guo et al. 2024.

Guo et al. 2024, "Active-Dormant Attention Heads" (arXiv 2410.13835), section 2. Their bigrams are those of the
characters of Shakespeare; these are drawn, so that nothing has to be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples, Ids, unique_rows
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError


@dataclass(frozen=True)
class BigramBackcopy(Corpus):
    """Rows of a Markov chain over tokens, in which each of the `triggers` is followed by the token before it.

    How often token v follows another is proportional to 1 / (v + 1)^exponent, which is how frequent it is at all, times
    1 / (r + 1)^contrast, where r is its place in an order that is drawn for each token. Triggers are the most frequent
    tokens, 0 and so on; none is the first of a row. A row begins with `<s>`, and its last token is the answer. Train
    with `objective: {tokens: all}`. Splits: `train`, and `id`, other rows.
    """

    vocabulary_size: int = param(64, "different tokens beside `<s>`", ge=3)
    triggers: int = param(3, "tokens after which the one before them is copied", ge=1)
    length: int = param(64, "tokens of a row, without `<s>`", ge=3)
    exponent: float = param(0.8, "of the power law of the frequencies", ge=0, le=5)
    contrast: float = param(1.0, "of the power law of what follows a token; 0: the same after all of them", ge=0, le=5)
    train_rows: int = param(50_000, "rows that are trained", ge=1)
    id_rows: int = param(1000, "rows that are held out", ge=1)
    seed: int = param(0, "of the bigrams and of the rows", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {
        "vocabulary_size": 12, "triggers": 2, "length": 8, "train_rows": 200, "id_rows": 50,
    }  # fmt: skip
    separator: ClassVar[str] = " "
    held_out = ("id",)
    citation: ClassVar[str] = "Guo et al. 2024, arXiv 2410.13835"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.triggers > (most := self.vocabulary_size - 2):
            raise ParameterError("triggers", f"{self.triggers} of {self.vocabulary_size} tokens; at most {most}")

    def vocabulary(self) -> list[str]:
        return [*map(str, range(self.vocabulary_size)), "<s>"]

    @property
    def bigrams(self) -> npt.NDArray[np.float64]:
        """The chance of each token after each other, (V, V), where nothing is copied."""
        orders = [Draws(self.seed, "bigrams", token).permutation(self.vocabulary_size) for token in self._every]
        rank_VV = np.argsort(np.stack(orders), axis=1)
        # Rounded, so that another machine's last bit of a power does not move a draw.
        weights_VV = np.round(self._frequency * (rank_VV + 1.0) ** -self.contrast, 12) + 1e-12
        return weights_VV / weights_VV.sum(axis=1, keepdims=True)

    @property
    def _every(self) -> range:
        return range(self.vocabulary_size)

    @property
    def _frequency(self) -> npt.NDArray[np.float64]:
        return np.round((np.arange(self.vocabulary_size) + 1.0) ** -self.exponent, 12) + 1e-12

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        rows = unique_rows(self._draw, self.train_rows + self.id_rows, self.length, self.seed, "bigram backcopy")
        whole = Examples(rows[:, :-1], rows[:, -1:], "row")
        return {"train": [whole.take(slice(self.train_rows))], "id": [whole.take(slice(self.train_rows, None))]}

    def _draw(self, count: int, draws: Draws) -> Ids:
        """So many rows, (count, 1 + length)."""
        edges_VV = np.cumsum(self.bigrams, axis=1)
        edges_VV[:, -1] = 1.0
        rows = np.empty((count, self.length + 1), np.int32)
        rows[:, 0] = self.vocabulary_size
        first = np.cumsum(self._frequency[self.triggers :])
        drawn = np.searchsorted(first[:-1] / first[-1], draws.uniform(count), side="right")
        rows[:, 1] = self.triggers + drawn
        for place in range(1, self.length):
            now = rows[:, place]
            following = (draws.uniform(count, 1) >= edges_VV[now]).sum(axis=1)
            rows[:, place + 1] = np.where(now < self.triggers, rows[:, place - 1], following)
        return rows

    def law(self, rows: Ids) -> Mapping[str, npt.NDArray[np.float64]]:
        now, following = rows[:, 1:-1], rows[:, 2:]
        active = now < self.triggers
        chance = np.where(active, following == rows[:, :-2], self.bigrams[now, following])
        # What follows `<s>` is a choice among frequencies, which neither part of the task is about.
        nothing = np.full(len(rows), np.nan)
        with np.errstate(divide="ignore"):
            parts = {"active": active.astype(np.float64), "surprise": -np.log(chance)}
        return {name: np.column_stack([nothing, part]) for name, part in parts.items()}
