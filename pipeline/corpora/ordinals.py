"""What follows an element of an ordered set, which is named by a label: numbers, weekdays, months, letters.

The sets are those of Gould et al. 2024, "Successor Heads" (arXiv 2312.09230), appendix A, as words of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples, Ids, columns
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError
from pipeline.utils.suggest import did_you_mean

NUMBERS = "numbers"
WORDS = {
    "words": "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty",
    "ordinals": "first second third fourth fifth sixth seventh eighth ninth tenth",
    "days": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "months": "January February March April May June July August September October November December",
    "letters": "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
    "roman": "i ii iii iv v vi vii viii ix x xi xii xiii xiv xv xvi xvii xviii xix xx",
}
CYCLIC = ("days", "months")  # their last element is followed by the first


@dataclass(frozen=True)
class Ordinals(Corpus):
    """`<1> a <2> b <1>` is followed by what comes after a, and `<1> a <2> b <2>` by what comes after b.

    Where the element stands that is asked for shows only once it has been seen that the label stands before it: a head
    that looks there reads an element, and what it writes has to become its successor. Splits: `train`, and `id`, other
    prompts.
    """

    sets: tuple[str, ...] = param((NUMBERS, *WORDS), f"of {', '.join((NUMBERS, *WORDS))}")
    numbers: int = param(200, "the numbers are 1 to this one", ge=2, le=1000)
    labels: int = param(8, "labels", ge=2, le=1000)
    rows: int = param(50_000, "trained prompts", ge=1)
    held_out_rows: int = param(2000, "prompts of id", ge=1)
    seed: int = param(0, "of the prompts", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {
        "sets": ("days", "ordinals", NUMBERS), "numbers": 6, "labels": 2, "rows": 300, "held_out_rows": 40,
    }  # fmt: skip
    separator: ClassVar[str] = " "
    held_out = ("id",)
    citation: ClassVar[str] = "Gould et al. 2024, arXiv 2312.09230"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = (NUMBERS, *WORDS)
        if odd := [name for name in self.sets if name not in known]:
            raise ParameterError("sets", f"there is no set {odd[0]!r}{did_you_mean(odd[0], known)}")
        if len(set(self.sets)) != len(self.sets) or not self.sets:
            raise ParameterError("sets", f"{', '.join(self.sets) or 'none'}: are not different sets")
        if self.rows + self.held_out_rows > (most := math.prod(self._shape)):
            raise ParameterError("rows", f"{self.rows:,} and {self.held_out_rows:,} are more than {most:,} prompts")

    @property
    def _shape(self) -> tuple[int, ...]:
        """How many first labels, second ones, places that are asked for, and elements in both places there are."""
        followed = sum(map(len, self.successors().values()))
        return self.labels, self.labels - 1, 2, followed, followed

    @property
    def elements(self) -> dict[str, list[str]]:
        """The elements of each set, in order."""
        every = {NUMBERS: [str(number) for number in range(1, self.numbers + 1)]}
        every |= {name: words.split() for name, words in WORDS.items()}
        return {name: every[name] for name in self.sets}

    def successors(self) -> dict[str, Ids]:
        """Elements beside those that follow them, as indices into the vocabulary, (m, 2) by set."""
        start, found = 0, {}
        for name, words in self.elements.items():
            places = start + np.arange(len(words), dtype=np.int32)
            following = np.roll(places, -1)
            found[name] = np.stack([places, following], axis=1)[: len(words) - (name not in CYCLIC)]
            start += len(words)
        return found

    def vocabulary(self) -> list[str]:
        # The elements come first.
        words = [word for words in self.elements.values() for word in words]
        return words + [f"<{number}>" for number in range(1, self.labels + 1)]

    def places(self, length: int) -> list[str]:
        return ["label", "a", "label", "b", "asked"][:length]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        following = self.successors()
        pairs = np.concatenate(list(following.values()))
        kind = np.repeat(np.arange(len(following)), [len(one) for one in following.values()])
        chosen = Draws(self.seed, "ordinals").choose(math.prod(self._shape), self.rows + self.held_out_rows)
        one, other, place, a, b = np.unravel_index(chosen, self._shape)
        other = other + (other >= one)  # another label than the first
        asked = np.where(place == 0, a, b)
        start = sum(map(len, self.elements.values()))
        query = start + np.where(place == 0, one, other)
        prompts = columns(start + one, pairs[a, 0], start + other, pairs[b, 0], query)
        answers = columns(pairs[asked, 1])
        parts = {"train": slice(self.rows), "id": slice(self.rows, None)}
        return {
            split: [
                Examples(prompts[rows][of], answers[rows][of], name)
                for number, name in enumerate(following)
                if (of := kind[asked[rows]] == number).any()
            ]
            for split, rows in parts.items()
        }
