"""Short programs, the value of whose last line is asked for; made here, as Walker's are not published.

Walker 2024, "Future Token Prediction" (arXiv 2410.18160), trains toy programs of its own. These are drawn at random:
each line picks a variable, an operation and two operands, and shows the value it gets, modulo a small number.
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

OPERATIONS = ("+", "-", "*")
SIGNS = ("=", "#", ";")
FIRST, LINE = 4, 8  # tokens of `a = 3 ;` and of `c = a + 4 # 2 ;`


@dataclass(frozen=True)
class ToyPrograms(Corpus):
    """`a = 3 ; b = 1 ; c = a + 4 # 2 ; a = c * b #` -> `2`: lines that compute modulo a number, with what they give.

    A program begins with a value for each variable. Then each line writes into one of them the sum, the difference or
    the product of two operands, a variable or in a quarter of the places a number; what comes after `#` is the value.
    The answer is the last one. Programs have as many lines as is drawn for each. Train with `objective: {tokens: all}`.
    Splits: `train`, and `id`, other programs.
    """

    variables: int = param(2, "variables, each of which a program gives a value first", ge=2, le=26)
    modulus: int = param(5, "numbers are computed modulo it, a token each", ge=2, le=1000)
    fewest_lines: int = param(1, "lines that compute, at least", ge=1)
    most_lines: int = param(2, "lines that compute, at most", ge=1)
    train_rows: int = param(50_000, "programs that are trained", ge=1)
    id_rows: int = param(1000, "programs that are held out", ge=1)
    seed: int = param(0, "of the programs", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {"most_lines": 1, "train_rows": 200, "id_rows": 50}
    separator: ClassVar[str] = " "
    held_out = ("id",)
    citation: ClassVar[str] = "after Walker 2024, arXiv 2410.18160"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fewest_lines > self.most_lines:
            raise ParameterError("fewest_lines", f"{self.fewest_lines} is more than most_lines, {self.most_lines}")

    def vocabulary(self) -> list[str]:
        names = [chr(ord("a") + number) for number in range(self.variables)]
        return [*map(str, range(self.modulus)), *names, *OPERATIONS, *SIGNS]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        prompt = FIRST * self.variables + LINE * self.most_lines - 2
        rows = unique_rows(self._draw, self.train_rows + self.id_rows, prompt, self.seed, "programs")
        return {"train": self._by_length(rows[: self.train_rows]), "id": self._by_length(rows[self.train_rows :])}

    def _by_length(self, rows: Ids) -> list[Examples]:
        """The programs with as many tokens as they have."""
        length = (rows[:, :-1] >= 0).sum(axis=1)
        return [
            Examples(rows[length == each, :each], rows[length == each, -1:], "program") for each in np.unique(length)
        ]

    def _draw(self, count: int, draws: Draws) -> Ids:
        """So many programs (count, tokens of the longest): prompts, filled up to the right with -1; answers."""
        name, operation = self.modulus, self.modulus + self.variables
        equals, shows, ends = range(operation + len(OPERATIONS), operation + len(OPERATIONS) + len(SIGNS))
        every = np.arange(count)
        values = draws.below(self.modulus, count, self.variables)
        parts = [np.stack([np.full(count, name + i), np.full(count, equals), values[:, i], np.full(count, ends)], 1)
                 for i in range(self.variables)]  # fmt: skip
        results = []
        for _ in range(self.most_lines):
            written = draws.below(self.variables, count)
            chosen = draws.below(len(OPERATIONS), count)
            variable = draws.below(self.variables, count, 2)
            is_number = draws.uniform(count, 2) < 0.25
            operand = np.where(is_number, draws.below(self.modulus, count, 2), values[every[:, None], variable])
            left, right = operand.T
            result = np.select([chosen == 0, chosen == 1], [left + right, left - right], left * right) % self.modulus
            values[every, written] = result
            first, second = np.where(is_number, operand, name + variable).T
            line = (name + written, equals, first, operation + chosen, second, shows, result, ends)
            parts.append(np.stack(np.broadcast_arrays(*line), 1))
            results.append(result)
        lines = self.fewest_lines + draws.below(self.most_lines - self.fewest_lines + 1, count)
        rows = np.hstack(parts)[:, :-2]
        is_there = np.arange(rows.shape[1]) < (FIRST * self.variables + LINE * lines - 2)[:, None]
        answers = np.stack(results, 1)[every, lines - 1]
        return np.column_stack([np.where(is_there, rows, -1), answers]).astype(np.int32)
