"""Nouns and adjectives told apart by where they stand, or by what they are: Anand et al. 2024, section 4.

Anand et al. 2024, "Dual Process Learning" (arXiv 2406.00053). Their models fill masks; here the targets follow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples, count_among, prompt_keys
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError

BINS = 5  # of the ranks, from each of which as many tokens are ambiguous
NOUN, ADJECTIVE = 0, 1


@dataclass(frozen=True)
class PosIcl(Corpus):
    """`is A N` or `N is A`, then a query, A or N, then three targets: `A A A` for an adjective, `A N N` for a noun.

    Words come from a power law over ranks, each part of speech by itself. Which word is the adjective can be read off
    the form of the three words, in context, and of words that are trained also off the word. An ambiguous word stands
    in the other's place half of the time.

    Splits: `train`; `head`, those of its rows with frequent words; and held out `id`, further rows; `tail`, rare words;
    `switch` and `tail_switch`, where nouns stand for adjectives and the other way round; `unseen`, words that no
    training row shows.
    """

    vocabulary_size: int = param(200, "words that are trained, half of them nouns", ge=20)
    unseen: int = param(20, "words that are not trained", ge=2)
    exponent: float = param(1.5, "of the power law over ranks; 0: all words alike", ge=0, le=5)
    ambiguity: float = param(0.1, "share of the words that stand in the other's place too", ge=0, le=1)
    head: int = param(20, "ranks that count as frequent", ge=1)
    train_rows: int = param(100_000, "rows that are trained", ge=1)
    eval_rows: int = param(500, "most rows of each other split", ge=1)
    seed: int = param(0, "of all that is drawn", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {"vocabulary_size": 40, "unseen": 6, "train_rows": 400, "eval_rows": 40}
    separator: ClassVar[str] = " "
    held_out = ("id", "tail", "switch", "tail_switch", "unseen")
    citation: ClassVar[str] = "Anand et al. 2024, arXiv 2406.00053"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocabulary_size % 2:
            raise ParameterError("vocabulary_size", f"{self.vocabulary_size} is odd; half of the words are nouns")

    @property
    def words(self) -> int:
        """Of each part of speech."""
        return self.vocabulary_size // 2

    def vocabulary(self) -> list[str]:
        # Nouns by rank, adjectives by rank, the copula, and what is never trained.
        names = [f"{kind}{rank}" for kind in "na" for rank in range(self.words)]
        return [*names, "is", *(f"u{i}" for i in range(self.unseen))]

    def places(self, length: int) -> list[str]:
        return ["1", "2", "3", "query", "target 1", "target 2", "target 3"][:length]

    def ambiguous(self) -> list[Numbers]:
        """Ranks of nouns, and of adjectives, that stand in the other's place too."""
        draws = Draws(self.seed, "pos_icl ambiguous")
        found: list[Numbers] = []
        for _ in (NOUN, ADJECTIVE):
            bins = np.array_split(np.arange(self.words), BINS)
            chosen = [part[draws.choose(len(part), math.ceil(self.ambiguity * len(part)))] for part in bins]
            found.append(np.sort(np.concatenate(chosen)))
        return found

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        nouns, adjectives = self._drawn("train", self.train_rows)
        train = self._rows("train", nouns, adjectives)
        trained = np.sort(prompt_keys(train.prompts))
        tail = self.words - max(self.words // 10, 1)
        found = {"train": train, "head": self._head(train)}
        many = 4 * self.eval_rows + 1000
        for split in self.held_out:
            draws = Draws(self.seed, "pos_icl words", self.held_out.index(split))
            if split == "unseen":
                first = self.vocabulary_size + 1
                nouns, adjectives = (first + draws.below(self.unseen, many) for _ in range(2))
            elif split.startswith("tail"):
                nouns, adjectives = (tail + draws.below(self.words - tail, many) for _ in range(2))
                adjectives += self.words
            else:
                nouns, adjectives = self._drawn(split, many, ambiguous=split == "id")
            if split.endswith("switch"):
                nouns, adjectives = adjectives, nouns
            different = nouns != adjectives
            found[split] = self._new(split, self._rows(split, nouns[different], adjectives[different]), trained)
        return {split: [examples] for split, examples in found.items()}

    def _drawn(self, split: str, count: int, ambiguous: bool = True) -> tuple[Numbers, Numbers]:
        """What stands where nouns do and where adjectives do, (count,) each, by the power law."""
        draws = Draws(self.seed, f"pos_icl {split}")
        swapped = self.ambiguous()
        places = []
        for kind in (NOUN, ADJECTIVE):
            ranks = self._by_law(np.arange(self.words), draws.uniform(count))
            tokens = ranks + kind * self.words
            other = 1 - kind
            chance, drawn = draws.uniform(count), draws.uniform(count)
            if ambiguous and len(swapped[kind]):
                goes = np.isin(ranks, swapped[kind]) & (chance < 0.5)
                tokens = np.where(goes, self._by_law(swapped[other], drawn) + other * self.words, tokens)
            places.append(tokens)
        return places[NOUN], places[ADJECTIVE]

    def _by_law(self, ranks: Numbers, uniform: npt.NDArray[np.float64]) -> Numbers:
        """Ranks, each as often as the power law has it among these."""
        # Rounded, so that another machine's last bit of a power does not move a draw.
        weights = np.round((ranks + 1.0) ** -self.exponent, 12) + 1e-12
        edges = np.cumsum(weights) / weights.sum()
        return ranks[np.searchsorted(edges, uniform, side="right").clip(max=len(ranks) - 1)]

    def _rows(self, split: str, noun: Numbers, adjective: Numbers) -> Examples:
        """Rows with these words, half of either form, half with either query."""
        quarter = Draws(self.seed, f"pos_icl forms {split}").below(4, len(noun))
        copula = np.full(len(noun), self.vocabulary_size)
        first = (quarter < 2)[:, None]  # the copula comes first
        context = np.where(first, np.stack([copula, adjective, noun], 1), np.stack([noun, copula, adjective], 1))
        asks_adjective = (quarter == 0) | (quarter == 3)
        query = np.where(asks_adjective, adjective, noun)
        prompts = np.concatenate([context, query[:, None]], 1).astype(np.int32)
        return Examples(prompts, np.stack([adjective, query, query], 1).astype(np.int32), "query")

    def _head(self, train: Examples) -> Examples:
        """Trained rows whose words are both frequent."""
        words = np.where(train.prompts[:, :3] == self.vocabulary_size, 0, train.prompts[:, :3] % self.words)
        rows = np.flatnonzero((words < self.head).all(axis=1))[: self.eval_rows]
        if not len(rows):
            raise ParameterError("head", f"no trained row has words of the {self.head} most frequent alone")
        return train.take(rows)

    def _new(self, split: str, examples: Examples, trained: npt.NDArray[np.uint64]) -> Examples:
        """Different rows whose prompts are not trained."""
        keys = prompt_keys(examples.prompts)
        _, first = np.unique(keys, return_index=True)
        rows = np.sort(first)
        rows = rows[[not count_among(keys[row : row + 1], trained) for row in rows]][: self.eval_rows]
        if not len(rows):
            raise ParameterError("train_rows", f"{self.train_rows:,} rows leave none for {split} that is not trained")
        return examples.take(rows)
