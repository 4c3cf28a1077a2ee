"""Questions about things, from a context-free grammar (after Celotti et al. 2020, arXiv 2003.13600)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples, Ids
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError

TERMINALS = {
    "THING": ("ball", "box", "cup", "key", "lamp", "book", "coin", "bell", "drum", "rope"),
    "COLOUR": ("red", "blue", "green", "black", "white", "grey", "pink", "brown"),
    "PLACE": ("near", "behind", "under", "above", "beside"),
}
RULES = {
    "QUESTION": (
        "is there a NAMED",
        "is there a NAMED PLACE the THING",
        "is the NAMED larger than the NAMED",
        "what colour is the THING",
        "what colour is the THING PLACE the THING",
    ),
    "NAMED": ("THING", "COLOUR THING"),
}
START, END = "<s>", "?"


@dataclass(frozen=True)
class Grammar(Corpus):
    """`<s> is there a red ball near the box` is answered by `?`, with which every sentence ends.

    With the objective `next_token` and `tokens: all` a model learns the language from some of its sentences; `id` are
    others. The analysis `latent_space` looks at what it has learned.
    """

    things: int = param(6, "nouns", ge=2, le=10)
    colours: int = param(4, "adjectives", ge=1, le=8)
    prepositions: int = param(3, "between two nouns", ge=1, le=5)
    train_size: int = param(800, "sentences that are trained", ge=1)
    test_size: int = param(400, "sentences of id", ge=1)
    seed: int = param(0, "of the choice of sentences", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {
        "things": 3, "colours": 2, "prepositions": 1, "train_size": 60, "test_size": 20,
    }  # fmt: skip
    separator: ClassVar[str] = " "
    held_out = ("id",)
    citation: ClassVar[str] = "Celotti et al. 2020, arXiv 2003.13600"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_size + self.test_size > (most := sum(map(len, self.sentences()))):
            asked = f"{self.train_size:,} and {self.test_size:,}"
            raise ParameterError("train_size", f"{asked} are more than the {most:,} sentences that there are")

    def _terminals(self) -> dict[str, tuple[str, ...]]:
        sizes = {"THING": self.things, "COLOUR": self.colours, "PLACE": self.prepositions}
        return {kind: words[: sizes[kind]] for kind, words in TERMINALS.items()}

    def vocabulary(self) -> list[str]:
        words = (word for rules in RULES.values() for rule in rules for word in rule.split() if word.islower())
        return [START, END, *dict.fromkeys(words), *itertools.chain(*self._terminals().values())]

    def sentences(self) -> list[Ids]:
        """All sentences of the grammar, (n, T) for each length T, with `<s>` and `?`."""
        ids = {word: number for number, word in enumerate(self.vocabulary())}
        found: dict[int, list[Numbers]] = {}
        for shape in _shapes("QUESTION"):
            choices = [[ids[word] for word in self._terminals().get(symbol, (symbol,))] for symbol in shape]
            grid = np.stack(np.meshgrid(*choices, indexing="ij"), -1).reshape(-1, len(shape))
            ends = np.broadcast_to([ids[START]], (len(grid), 1)), np.broadcast_to([ids[END]], (len(grid), 1))
            found.setdefault(len(shape), []).append(np.hstack([ends[0], grid, ends[1]]))
        return [np.concatenate(found[length]).astype(np.int32) for length in sorted(found)]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        sentences = self.sentences()
        bounds = np.cumsum([0, *map(len, sentences)])
        chosen = Draws(self.seed, "sentences").choose(int(bounds[-1]), self.train_size + self.test_size)
        parts = {"train": chosen[: self.train_size], "id": chosen[self.train_size :]}
        found: dict[str, list[Examples]] = {}
        for split, rows in parts.items():
            blocks = [
                block[rows[(rows >= low) & (rows < low + len(block))] - low] for block, low in zip(sentences, bounds)
            ]
            found[split] = [Examples(block[:, :-1], block[:, -1:], "question") for block in blocks if len(block)]
        return found


def _shapes(symbol: str) -> list[Sequence[str]]:
    """The sentences that come of a symbol, with kinds of terminals in the place of words."""
    found: list[Sequence[str]] = []
    for rule in RULES[symbol]:
        parts = [_shapes(part) if part in RULES else [[part]] for part in rule.split()]
        found += [list(itertools.chain(*choice)) for choice in itertools.product(*parts)]
    return found
