"""Drawings of two concepts, one combination of which is never shown, after Park et al. 2024.

Park et al. 2024, "Emergence of Hidden Capabilities" (arXiv 2406.19370), sections 3 and 4. They draw images; these are
drawings of tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples, Ids, columns
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError

VALUES = (("red", "blue"), ("small", "big"))  # of colour and of size, 0 and 1
TRAINED, NEVER = ((0, 0), (0, 1), (1, 0)), (1, 1)
SHADES = 8
NEUTRAL = ("plain", "middling")


@dataclass(frozen=True)
class ConceptGrid(Corpus):
    """`x3 y5 red big ->` is answered by a drawing, `red3 big5`: a token for the colour, and one for the size.

    Each has one of eight shades, x and y modulo 8. The strength of a concept's signal is how many of the shades show
    it: at the others the drawing is `plain3` or `middling5`, whatever was asked for. `train` shows all but blue and
    big. `ood` asks for these, at places that show both; `id` has further places of the trained combinations. In a share
    of the training prompts one of the two words is `?`, and the drawing is as if it were there.
    """

    colour_signal: int = param(4, "shades of eight that show the colour", ge=1, le=8)
    size_signal: int = param(4, "shades of eight that show the size", ge=1, le=8)
    underspecified: float = param(0.0, "share of the training prompts in which `?` stands for a word", ge=0, lt=1)
    positions: int = param(8, "values of x, and of y", ge=8)
    train_rows: int = param(48, "of each trained combination", ge=1)
    held_out_rows: int = param(16, "most of each combination, in `id` and `ood`", ge=1)
    seed: int = param(0, "of the places, and of what is not said", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {
        "colour_signal": 2, "size_signal": 3, "underspecified": 0.3, "positions": 8, "train_rows": 24,
        "held_out_rows": 6,
    }  # fmt: skip
    separator: ClassVar[str] = " "
    citation: ClassVar[str] = "Park et al. 2024, arXiv 2406.19370"
    concepts: ClassVar[tuple[str, str]] = ("colour", "size")
    concept_places: ClassVar[tuple[int, int]] = (2, 3)  # in a prompt

    def __post_init__(self) -> None:
        super().__post_init__()
        if (asked := self.train_rows + self.held_out_rows) > (there := self.positions**2):
            raise ParameterError("train_rows", f"{asked:,} rows of a combination, trained and held out, of {there:,}")

    def vocabulary(self) -> list[str]:
        axes = [f"{axis}{place}" for axis in "xy" for place in range(self.positions)]
        words = list(itertools.chain(*VALUES))
        drawn = [(*pair, none) for pair, none in zip(VALUES, NEUTRAL)]
        shades = [f"{word}{shade}" for kinds in drawn for word in kinds for shade in range(SHADES)]
        return [*axes, *words, "?", "->", *shades]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        found: dict[str, list[Examples]] = {"train": [], "id": [], "ood": [self._rows(NEVER, self._asked)]}
        for values in TRAINED:
            order = Draws(self.seed, "concept_grid places", *values).permutation(self.positions**2)
            found["train"].append(self._unsaid(self._rows(values, order[: self.train_rows]), values))
            found["id"].append(self._rows(values, order[self.train_rows :][: self.held_out_rows]))
        return found

    @property
    def _asked(self) -> Numbers:
        """Places that show both concepts."""
        order = Draws(self.seed, "concept_grid places", *NEVER).permutation(self.positions**2)
        x, y = order % self.positions, order // self.positions
        return order[(x % SHADES < self.colour_signal) & (y % SHADES < self.size_signal)][: self.held_out_rows]

    def _rows(self, values: tuple[int, int], places: Numbers) -> Examples:
        """Rows of a combination at places."""
        answers = []
        for concept, signal in enumerate((self.colour_signal, self.size_signal)):
            shade = (places % self.positions, places // self.positions)[concept] % SHADES
            value = np.where(shade < signal, values[concept], 2)
            answers.append(self._first(concept) + SHADES * value + shade)
        return Examples(self.prompts(values, places), columns(*answers), "".join(map(str, values)))

    def _unsaid(self, rows: Examples, values: tuple[int, int]) -> Examples:
        """Rows with `?` in a share of the prompts."""
        draws = Draws(self.seed, "concept_grid unsaid", *values)
        hidden, which = draws.uniform(len(rows)) < self.underspecified, draws.below(2, len(rows))
        rows.prompts[hidden, np.array(self.concept_places)[which[hidden]]] = 2 * self.positions + 4
        return rows

    def _first(self, concept: int) -> int:
        """The first token of drawings for a concept: `SHADES` each for its value 0, for 1, and for none."""
        return 2 * self.positions + 6 + 3 * SHADES * concept

    def prompts(self, values: tuple[int, int], places: Numbers | None = None) -> Ids:
        """Prompts that ask for a combination, (n, 5), at the places of `ood` or at others."""
        places = self._asked if places is None else places
        x, y = places % self.positions, self.positions + places // self.positions
        colour, size = 2 * self.positions + values[0], 2 * self.positions + 2 + values[1]
        return columns(x, y, colour, size, 2 * self.positions + 5)

    @property
    def concept_tokens(self) -> list[tuple[list[int], list[int]]]:
        """The tokens of a drawing that show the value 0, and the value 1, of each concept."""
        found = []
        for first in map(self._first, (0, 1)):
            found.append(([*range(first, first + SHADES)], [*range(first + SHADES, first + 2 * SHADES)]))
        return found
