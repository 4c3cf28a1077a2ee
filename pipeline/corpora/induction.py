"""Random tokens that begin to repeat: what follows is read off the earlier occurrence (Olsson et al. 2022).

The toy task of Xu et al. 2024, "KV Shifting Attention" (arXiv 2411.19574), section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples, Ids, unique_rows
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError


@dataclass(frozen=True)
class Induction(Corpus):
    """Rows of `length` tokens that repeat a segment of different tokens over and over; the answer is the last one.

    How long the segment is differs from row to row, so that no position says where the answer stands: the token before
    it has to be found again. Train with `objective: {tokens: all}`. Splits: `train`, and `id`, other rows.
    """

    vocabulary_size: int = param(64, "different tokens", ge=2)
    length: int = param(32, "tokens of a row, the answer included", ge=4)
    shortest: int = param(6, "tokens of a segment, at least", ge=2)
    longest: int = param(16, "tokens of a segment, at most", ge=2)
    train_rows: int = param(50_000, "rows that are trained", ge=1)
    id_rows: int = param(1000, "rows that are held out", ge=1)
    seed: int = param(0, "of the rows", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {
        "vocabulary_size": 12, "length": 11, "shortest": 2, "longest": 5, "train_rows": 200, "id_rows": 50,
    }  # fmt: skip
    separator: ClassVar[str] = " "
    held_out = ("id",)
    citation: ClassVar[str] = "Xu et al. 2024, arXiv 2411.19574"

    def __post_init__(self) -> None:
        super().__post_init__()
        most = min(self.vocabulary_size, self.length - 2)
        if not self.shortest <= self.longest <= most:
            raise ParameterError(
                "longest",
                f"{self.longest} is not from shortest, {self.shortest}, to {most}: a segment has different tokens, and "
                "its first one is seen again before the answer",
            )

    def vocabulary(self) -> list[str]:
        return [str(token) for token in range(self.vocabulary_size)]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        rows = unique_rows(self._draw, self.train_rows + self.id_rows, self.length - 1, self.seed, "induction")
        whole = Examples(rows[:, :-1], rows[:, -1:], "repeat")
        return {"train": [whole.take(slice(self.train_rows))], "id": [whole.take(slice(self.train_rows, None))]}

    def _draw(self, count: int, draws: Draws) -> Ids:
        """So many rows, (count, length)."""
        segment_N = self.shortest + draws.below(self.longest - self.shortest + 1, count)
        # Different tokens by Floyd's method: one that is there already gives way to the largest that is allowed now.
        chosen = np.empty((count, self.longest), np.int64)
        for i in range(self.longest):
            largest = self.vocabulary_size - self.longest + i
            token_N = draws.below(largest + 1, count)
            is_there = (chosen[:, :i] == token_N[:, None]).any(axis=1)
            chosen[:, i] = np.where(is_there, largest, token_N)
        order = np.argsort(draws.uniform(count, self.longest), axis=1, kind="stable")
        tokens = np.take_along_axis(chosen, order, axis=1)
        place = np.arange(self.length) % segment_N[:, None]
        return np.take_along_axis(tokens, place, axis=1).astype(np.int32)
