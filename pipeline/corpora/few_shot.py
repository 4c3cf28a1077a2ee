"""Examples of a rule that holds in one row alone, with mistakes among them; then the rule is asked for.

Made for the question of Cosentino & Shekkizhar 2024, "Reasoning in Large Language Models: A Geometric Perspective"
(arXiv 2407.02678), who put solved questions before another one.
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
class FewShot(Corpus):
    """`x2 y1 x0 y3 x2 y1 x2` -> `y1`: each row draws the label of every input anew, and some examples show another one.

    The more examples of an input a row has, the surer its label. Every row has the same number of examples, so that
    the k-th input is answered after k of them. Splits: `train`, and `id`, other rows. Train with
    `objective: {tokens: all}`.
    """

    inputs: int = param(4, "different inputs", ge=2)
    labels: int = param(4, "different labels", ge=2)
    shots: int = param(12, "examples of a row", ge=1)
    noise: float = param(0.2, "share of the examples that show a label drawn from all of them", ge=0, lt=1)
    rows: int = param(50_000, "rows that are trained", ge=1)
    id_rows: int = param(1000, "rows that are held out", ge=1)
    seed: int = param(0, "of the rows", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {"inputs": 3, "labels": 3, "shots": 4, "rows": 200, "id_rows": 50}
    separator: ClassVar[str] = " "
    held_out = ("id",)
    citation: ClassVar[str] = "Cosentino & Shekkizhar 2024, arXiv 2407.02678"

    def vocabulary(self) -> list[str]:
        return [*(f"x{i}" for i in range(self.inputs)), *(f"y{i}" for i in range(self.labels))]

    def places(self, length: int) -> list[str]:
        return [("input", "label")[place % 2] for place in range(length)]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        length = 2 * self.shots + 1
        try:
            rows = unique_rows(self._draw, self.rows + self.id_rows, length, self.seed, "few shot")
        except ParameterError as error:
            raise ParameterError("rows", error.message) from None
        whole = Examples(rows[:, :-1], rows[:, -1:], "rule")
        return {"train": [whole.take(slice(self.rows))], "id": [whole.take(slice(self.rows, None))]}

    def _draw(self, count: int, draws: Draws) -> Ids:
        """So many rows, (count, 2 shots + 2)."""
        rule = draws.below(self.labels, count, self.inputs)
        asked = draws.below(self.inputs, count, self.shots + 1)
        label = np.take_along_axis(rule, asked, axis=1)
        wrong = draws.uniform(count, self.shots + 1) < self.noise
        wrong[:, -1] = False
        label = np.where(wrong, draws.below(self.labels, count, self.shots + 1), label)
        return np.stack([asked, self.inputs + label], axis=2).reshape(count, -1).astype(np.int32)
