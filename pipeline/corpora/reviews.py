"""Reviews in clauses that praise or blame, and what they come to in all.

Made after Tigges et al. 2023, "Linear Representations of Sentiment in Large Language Models" (arXiv 2310.15154), whose
frames name a film, an adjective and a verb; these words and frames are others.
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

ADJECTIVES = {
    "good": "bright charming clever crisp daring deft elegant fresh funny gentle graceful gripping honest inspired "
    "inventive lively lovely moving nimble poised radiant rich sharp sincere smart stirring subtle tender vivid warm "
    "witty wise",
    "bad": "awkward bland bleak bloated boring clumsy cold crude dated dire drab dreary dull empty flat forced garbled "
    "grating hollow idle lazy leaden limp messy muddled numbing pointless shallow sloppy stale tedious tired",
}
TOPICS = "acting camera casting dialogue direction editing ending humour music pacing plot score script staging"
KINDS = tuple(ADJECTIVES)  # the answers, and their types
OPENERS = ("the", "its", "their")
VERBS = ("was", "felt", "seemed")
JOIN, CLAUSE, QUESTION = "and", ",", ("all", "told", "quite")


@dataclass(frozen=True)
class Reviews(Corpus):
    """`the plot was stale and witty and dull , its score felt ... , all told quite` is followed by good or bad.

    A clause praises or blames as most of its adjectives do, and a review is good if most of its clauses praise: what a
    clause comes to can be known at its comma, and nowhere before. Splits: `train`, and `id`, other reviews.
    """

    clauses: int = param(3, "of a review, an odd number", ge=1)
    words: int = param(3, "adjectives of a clause, an odd number", ge=1)
    adjectives: int = param(32, "that praise, and as many that blame", ge=1, le=32)
    rows: int = param(50_000, "trained reviews", ge=2)
    id_rows: int = param(2000, "reviews that are held out", ge=2)
    seed: int = param(0, "of the reviews", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {"clauses": 1, "adjectives": 6, "rows": 200, "id_rows": 60}
    separator: ClassVar[str] = " "
    held_out = ("id",)
    citation: ClassVar[str] = "Tigges et al. 2023, arXiv 2310.15154"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, count in {"clauses": self.clauses, "words": self.words}.items():
            if count % 2 == 0:
                raise ParameterError(name, f"{count} is not odd: there would be no majority")

    def vocabulary(self) -> list[str]:
        # Adjectives come first, those that praise before those that blame.
        words = [word for kind in KINDS for word in ADJECTIVES[kind].split()[: self.adjectives]]
        return [*words, *OPENERS, *TOPICS.split(), *VERBS, JOIN, CLAUSE, *QUESTION, *KINDS]

    def places(self, length: int) -> list[str]:
        words = [place for i in range(self.words) for place in ("adjective", JOIN)[: 2 - (i + 1 == self.words)]]
        return ([*("opener", "topic", "verb"), *words, "comma"] * self.clauses + [*QUESTION])[:length]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        length = len(self.places(10**9))
        try:
            rows = unique_rows(self._draw, self.rows + self.id_rows, length, self.seed, "reviews")
        except ParameterError as error:
            raise ParameterError("rows", error.message) from None
        first = len(self.vocabulary()) - len(KINDS)
        parts = {"train": rows[: self.rows], "id": rows[self.rows :]}
        return {
            split: [
                Examples(chosen[:, :-1], chosen[:, -1:], kind)
                for number, kind in enumerate(KINDS)
                if len(chosen := part[part[:, -1] == first + number])
            ]
            for split, part in parts.items()
        }

    def _draw(self, count: int, draws: Draws) -> Ids:
        """So many reviews with their answers, (count, length + 1)."""
        place = {word: number for number, word in enumerate(self.vocabulary())}
        columns: list[Any] = []
        for _ in range(self.clauses):
            for words in (OPENERS, TOPICS.split(), VERBS):
                columns.append(place[words[0]] + draws.below(len(words), count))
            for _ in range(self.words):
                columns += [draws.below(2 * self.adjectives, count), np.full(count, place[JOIN])]
            columns[-1] = np.full(count, place[CLAUSE])
        columns += [np.full(count, place[word]) for word in QUESTION]
        rows = np.stack(columns, axis=1)
        return np.hstack([rows, place[KINDS[0]] + ~self.praises(rows)[:, None]]).astype(np.int32)

    def contrasted(self, examples: Examples, draws: Draws) -> Examples:
        # Each adjective becomes the one of the other kind that has its number.
        is_adjective = np.array(self.places(examples.prompts.shape[1])) == "adjective"
        other = (examples.prompts + self.adjectives) % (2 * self.adjectives)
        prompts = np.where(is_adjective, other, examples.prompts).astype(np.int32)
        first = len(self.vocabulary()) - len(KINDS)
        return Examples(prompts, (2 * first + 1 - examples.answers).astype(np.int32), examples.type)

    def praises(self, prompts: Ids) -> Any:
        """Tell which reviews are good, (n,)."""
        places = np.array(self.places(prompts.shape[1]))
        adjectives = prompts[:, places == "adjective"].reshape(len(prompts), self.clauses, self.words)
        clauses = (adjectives < self.adjectives).sum(axis=2) > self.words // 2
        return clauses.sum(axis=1) > self.clauses // 2
