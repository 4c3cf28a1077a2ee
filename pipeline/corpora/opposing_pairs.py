"""Rows with answers that are easy, and a few with a loud mark in common whose answers oppose each other.

Made after Rosenfeld & Risteski 2023, "Outliers with Opposing Signals" (arXiv 2311.04163), who find such groups in
images and in text; here it is known which rows they are.
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

OPPOSED = ("A", "B")  # the answers of loud rows, and their types


@dataclass(frozen=True)
class OpposingPairs(Corpus):
    """Random words, whose last one decides the answer; and few rows that end with `!`, answered by A or by B.

    Which of the two follows from `quiet` words that stand somewhere before, each of them `w0` or `w1`, which mean
    nothing elsewhere: A where an even number is `w1`. Until that is found out, what teaches the one answer unteaches
    the other. Splits: `train`, and `id`, other rows.
    """

    vocabulary_size: int = param(32, "words", ge=3)
    classes: int = param(4, "answers of ordinary rows; word i has answer i modulo this", ge=2)
    length: int = param(10, "words of a prompt", ge=3)
    rows: int = param(1024, "trained rows in all", ge=3)
    loud: int = param(26, "trained rows that end with `!`, for each answer", ge=1)
    quiet: int = param(2, "words of such a row that decide, by their parity", ge=1)
    id_rows: int = param(256, "rows that are held out, as many of each kind", ge=3)
    seed: int = param(0, "of the rows", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {"vocabulary_size": 8, "length": 5, "rows": 60, "loud": 6, "id_rows": 12}
    separator: ClassVar[str] = " "
    held_out = ("id",)
    citation: ClassVar[str] = "Rosenfeld & Risteski 2023, arXiv 2311.04163"

    def __post_init__(self) -> None:
        super().__post_init__()
        if 2 * self.loud >= self.rows:
            raise ParameterError("loud", f"{self.loud} of each kind leave nothing else of {self.rows} rows")
        if self.quiet >= self.length:
            raise ParameterError("quiet", f"{self.quiet} words do not stand before the last of {self.length}")
        if self.classes > self.vocabulary_size:
            raise ParameterError("classes", f"{self.classes} are more than the {self.vocabulary_size} words")

    def vocabulary(self) -> list[str]:
        words = [f"w{i}" for i in range(self.vocabulary_size)]
        return [*words, "!", *(f"c{i}" for i in range(self.classes)), *OPPOSED]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        held_out = self.id_rows // 3
        sizes = {"ordinary": self.rows - 2 * self.loud, **dict.fromkeys(OPPOSED, self.loud)}
        found: dict[str, list[Examples]] = {"train": [], "id": []}
        for kind, count in sizes.items():
            rows = self._unique(kind, count + held_out)
            whole = Examples(rows[:, :-1], rows[:, -1:], kind)
            found["train"].append(whole.take(slice(count)))
            found["id"].append(whole.take(slice(count, None)))
        return found

    def _unique(self, kind: str, count: int) -> Ids:
        def draw(many: int, draws: Draws) -> Ids:
            first_answer = self.vocabulary_size + 1
            if kind == "ordinary":
                words = draws.below(self.vocabulary_size, many, self.length)
                answers = first_answer + words[:, -1] % self.classes
            else:
                parity = OPPOSED.index(kind)
                words = 2 + draws.below(self.vocabulary_size - 2, many, self.length)
                bits = draws.below(2, many, self.quiet)
                bits[:, -1] = (bits[:, :-1].sum(axis=1) + parity) % 2
                places = np.argsort(draws.uniform(many, self.length - 1), axis=1, kind="stable")[:, : self.quiet]
                np.put_along_axis(words, places, bits, axis=1)
                words[:, -1] = self.vocabulary_size
                answers = np.full(many, first_answer + self.classes + parity)
            return np.column_stack([words, answers]).astype(np.int32)

        try:
            return unique_rows(draw, count, self.length, self.seed, f"opposing pairs {kind}")
        except ParameterError as error:
            raise ParameterError("rows" if kind == "ordinary" else "loud", error.message) from None
