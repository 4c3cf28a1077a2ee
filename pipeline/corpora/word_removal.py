"""Sentences from which words are to be removed that feedback names (Scheurer et al. 2023, arXiv 2303.16755)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples, Ids, columns, unique_rows
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError
from pipeline.utils.suggest import did_you_mean

TRADES = (
    "baker pilot farmer sailor doctor painter singer dancer lawyer miner potter tailor weaver cook nurse judge clerk "
    "guard guide poet actor author barber broker butcher carpenter chemist coach diver driver editor farrier fisher "
    "florist gardener glazier grocer hunter jeweller joiner laundress librarian locksmith mason mechanic merchant "
    "midwife miller musician plumber porter printer ranger roofer scholar shepherd smith surgeon teacher trader"
)
NOUNS = TRADES.split()
WORDS = ("person", "and", ".", "remove", "gives", "write", ":")
TASKS = ("remove", "write", "wanted")


@dataclass(frozen=True)
class WordRemoval(Corpus):
    """`baker and person and pilot . remove pilot gives` is answered by `baker and person .`: the refiner's task.

    A sentence has k nouns, all different, and `person`, which always stays, at a random place; r nouns are named.
    `write`: the words of a sentence are given, and it is written as it is, `write baker person : baker and person .`.
    `wanted`: the same without the nouns that nobody wants to read, which the writer does not know; stage two. `id` is
    distributed as `train` is; of `remove` there is a split for each k and r, such as `k4_r2`, also with more nouns than
    are trained; sentences of `ood_words` have nouns of which no refiner has seen any.
    """

    tasks: tuple[str, ...] = param(("remove",), f"of {', '.join(TASKS)}")
    nouns: int = param(30, "that are known", ge=4, le=50)
    unseen: int = param(10, "nouns of ood_words", ge=0, le=10)
    unwanted: int = param(10, "of the nouns nobody wants to read", ge=1)
    most_nouns: int = param(6, "in a trained sentence; from one on", ge=1, le=10)
    longest: int = param(10, "most nouns in a sentence of any split; 10 in the paper", ge=1, le=12)
    most_removed: int = param(3, "nouns of a sentence; from one on", ge=1, le=3)
    rows: int = param(1500, "trained sentences of each k and r, or half of those that there are", ge=1)
    test_rows: int = param(50, "the same of each held-out split, or a quarter", ge=1)
    seed: int = param(0, "of the sentences", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {
        "tasks": ("remove", "write"), "nouns": 8, "unseen": 6, "unwanted": 3, "most_nouns": 2, "longest": 3,
        "most_removed": 2, "rows": 40, "test_rows": 10,
    }  # fmt: skip
    separator: ClassVar[str] = " "
    citation: ClassVar[str] = "Scheurer et al. 2023, arXiv 2303.16755"

    def __post_init__(self) -> None:
        super().__post_init__()
        if odd := [task for task in self.tasks if task not in TASKS]:
            raise ParameterError("tasks", f"there is no task {odd[0]!r}{did_you_mean(odd[0], TASKS)}")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks) or {"write", "wanted"} <= set(self.tasks):
            raise ParameterError("tasks", "are none, or one twice, or write beside wanted, which has the same prompts")
        if self.longest < self.most_nouns:
            raise ParameterError("longest", f"{self.longest} is less than most_nouns, {self.most_nouns}")
        if self.unwanted >= self.nouns:
            raise ParameterError("unwanted", f"{self.unwanted} is not less than the {self.nouns} nouns")
        least = max(self.longest if "remove" in self.tasks else 0, self.most_nouns + self.unwanted)
        if self.nouns < least:
            raise ParameterError("nouns", f"{self.nouns} are too few for such sentences; >= {least}")
        if 0 < self.unseen < self.most_nouns:
            raise ParameterError("unseen", f"{self.unseen} are too few for {self.most_nouns} in a sentence")

    @property
    def held_out(self) -> tuple[str, ...]:
        cells = [f"k{k}_r{r}" for k, r in self._cells(self.longest)] if "remove" in self.tasks else []
        return ("id", *cells, *(["ood_words"] if "remove" in self.tasks and self.unseen else []))

    def vocabulary(self) -> list[str]:
        return [*NOUNS[: self.nouns], *NOUNS[50 : 50 + self.unseen], *WORDS]

    def _word(self, word: str) -> int:
        return self.nouns + self.unseen + WORDS.index(word)

    def _cells(self, most: int) -> list[tuple[int, int]]:
        """k and r of all sentences with at most so many nouns."""
        return [(k, r) for k in range(1, most + 1) for r in range(1, min(k, self.most_removed) + 1)]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        found: dict[str, list[Examples]] = {"train": [], "id": []}
        if "remove" in self.tasks:
            known = np.arange(self.nouns)
            for k, r in self._cells(self.longest):
                trained, held_out = self._removals(known, k, r)
                found[f"k{k}_r{r}"] = [held_out]
                if k <= self.most_nouns:
                    found["train"].append(trained)
                    found["id"].append(held_out)
            if self.unseen:
                new = np.arange(self.nouns, self.nouns + self.unseen)
                found["ood_words"] = [self._removals(new, k, r)[1] for k, r in self._cells(self.most_nouns)]
        for task in ("write", "wanted"):
            for k in range(1, self.most_nouns + 1) if task in self.tasks else ():
                for bad in range(min(k, self.most_removed, self.unwanted) + 1):
                    trained, held_out = self._writings(task, k, bad)
                    found["train"].append(trained)
                    found["id"].append(held_out)
        return found

    def _removals(self, known: Numbers, k: int, r: int) -> tuple[Examples, Examples]:
        """Trained and held-out examples with k of these nouns, of which r are removed."""

        def draw(count: int, draws: Draws) -> Ids:
            nouns = known[draws.uniform(count, len(known)).argsort(1)[:, :k]]
            sentence, place = self._with_person(nouns, draws)
            removed = draws.uniform(count, k).argsort(1)[:, :r]
            named = np.take_along_axis(nouns, removed, 1)
            kept = sentence[~(place[:, :, None] == removed[:, None]).any(2)]
            parts = (self._text(sentence), columns(np.full(count, self._word("remove"))), self._listed(named),
                     columns(np.full(count, self._word("gives"))), self._text(kept.reshape(count, -1)))  # fmt: skip
            return np.hstack(parts).astype(np.int32)

        possible = math.perm(len(known), k) * (k + 1) * math.perm(k, r)
        prompt = 2 * (k + 1) + 1 + (2 * r - 1) + 1
        return self._cut(draw, possible, prompt, f"remove {known[0]} {k} {r}", f"k{k}_r{r}")

    def _writings(self, task: str, k: int, bad: int) -> tuple[Examples, Examples]:
        """Trained and held-out examples with k nouns to write, of which so many are not wanted."""
        good = self.nouns - self.unwanted

        def draw(count: int, draws: Draws) -> Ids:
            wanted = draws.uniform(count, good).argsort(1)[:, : k - bad]
            unwanted = good + draws.uniform(count, self.unwanted).argsort(1)[:, :bad]
            nouns = np.hstack([wanted, unwanted])
            nouns = np.take_along_axis(nouns, draws.uniform(count, k).argsort(1), 1)
            sentence, _ = self._with_person(nouns, draws)
            kept = sentence if task == "write" else sentence[~self._is_unwanted(sentence)].reshape(count, -1)
            ends = [columns(np.full(count, self._word(word))) for word in ("write", ":")]
            return np.hstack([ends[0], sentence, ends[1], self._text(kept)]).astype(np.int32)

        possible = math.comb(good, k - bad) * math.comb(self.unwanted, bad) * math.factorial(k) * (k + 1)
        return self._cut(draw, possible, k + 3, f"write {k} {bad}", task)

    def _cut(self, draw: Any, possible: int, prompt: int, purpose: str, kind: str) -> tuple[Examples, Examples]:
        """Different rows, of which the first are trained and the others are not."""
        trained, tested = max(min(self.rows, possible // 2), 1), max(min(self.test_rows, possible // 4), 1)
        rows = unique_rows(draw, trained + tested, prompt, self.seed, purpose)
        every = Examples(rows[:, :prompt], rows[:, prompt:], kind)
        return every.take(slice(0, trained)), every.take(slice(trained, None))

    def _with_person(self, nouns: Numbers, draws: Draws) -> tuple[Numbers, Numbers]:
        """Nouns (n, k) and `person` at a random place (n, k + 1), and which of the nouns stands where, -1 for none."""
        count, k = nouns.shape
        slot, place = draws.below(k + 1, count)[:, None], np.arange(k + 1)[None]
        which = np.where(place == slot, -1, place - (place > slot))
        return np.where(which < 0, self._word("person"), np.take_along_axis(nouns, which.clip(0), 1)), which

    def _listed(self, words: Numbers) -> Numbers:
        """Words (n, m) with `and` between them, (n, 2 m - 1)."""
        found = np.full((len(words), 2 * words.shape[1] - 1), self._word("and"))
        found[:, ::2] = words
        return found

    def _text(self, words: Numbers) -> Numbers:
        """Words (n, m) as sentences, (n, 2 m)."""
        return np.hstack([self._listed(words), np.full((len(words), 1), self._word("."))])

    def _is_unwanted(self, words: Numbers) -> Any:
        return (words >= self.nouns - self.unwanted) & (words < self.nouns)

    def feedback(self, prompt: Sequence[int], draft: Sequence[int]) -> list[int] | None:
        named = list(dict.fromkeys(word for word in draft if self._is_unwanted(np.int64(word))))
        if not named:
            return None
        return [*draft, self._word("remove"), *self._listed(np.array([named]))[0].tolist(), self._word("gives")]

    def is_right(self, prompt: Sequence[int], answer: Sequence[int]) -> bool:
        words = np.array(prompt[1:-1])
        return list(answer) == self._text(words[~self._is_unwanted(words)][None])[0].tolist()
