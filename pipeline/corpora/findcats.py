"""FindCats: whether a string has the letters of a word in order (Qi et al. 2022, arXiv 2208.02169, section 4.1)."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples, Ids
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError

CLASS, SEPARATOR, NO, YES = 26, 27, 28, 29  # after the letters


@dataclass(frozen=True)
class Findcats(Corpus):
    """`<cls> c a t <sep> w x c b a z t ... <sep>` is answered yes: the string has the letters of the word in order.

    Half of the strings are drawn uniformly of those without the word; in the others, places drawn at random are
    overwritten by it. `id` is distributed as `train` is; `ood_length` has strings of other lengths, `ood_word` other
    words; where `within` keeps the word of the training strings to their beginning, `ood_position` has it anywhere.
    """

    length: int = param(60, "letters of a string; 300 in the paper", ge=10)
    train_size: int = param(500, "strings that are trained", ge=2)
    test_size: int = param(1000, "strings of every held-out split; 10000 in the paper", ge=2)
    words: tuple[str, ...] = param(("cat",), "that are looked for, each as often")
    other_words: tuple[str, ...] = param((), "of ood_word: ['snake', 'robin', 'puma', 'oyster', 'ibis'] in the paper")
    other_lengths: tuple[int, ...] = param((), "of ood_length, each as often")
    within: int | None = param(None, "the word of a training string stands in its first so many letters", ge=8)
    seed: int = param(0, "of the strings", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {
        "length": 20, "train_size": 40, "test_size": 20, "words": ("cat", "ibis"), "other_words": ("puma",),
        "other_lengths": (16, 23), "within": 12,
    }  # fmt: skip
    separator: ClassVar[str] = " "

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("words", "other_words"):
            for word in getattr(self, key):
                if not word or not set(word) <= set(string.ascii_lowercase) or len(word) > 8:
                    raise ParameterError(key, f"{word!r} is no word of 1 to 8 letters a-z")
        if not self.words or len({*self.words, *self.other_words}) < len(self.words) + len(self.other_words):
            raise ParameterError("words", "are none, or one of them stands twice")
        for length in self.other_lengths:
            if length < 8 or length == self.length:
                raise ParameterError("other_lengths", f"{length} is not >= 8 and another than {self.length}")
        if self.within is not None and self.within > self.length:
            raise ParameterError("within", f"{self.within} is more than the {self.length} letters that there are")

    @property
    def held_out(self) -> tuple[str, ...]:
        chosen = {"ood_length": self.other_lengths, "ood_word": self.other_words, "ood_position": self.within}
        return ("id", *(split for split, is_there in chosen.items() if is_there))

    def vocabulary(self) -> list[str]:
        return [*string.ascii_lowercase, "<cls>", "<sep>", "no", "yes"]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        found = {
            "train": self._blocks("train", self.words, (self.length,), self.within, self.train_size),
            "id": self._blocks("id", self.words, (self.length,), self.within),
        }
        if self.other_lengths:
            found["ood_length"] = self._blocks("ood_length", self.words, self.other_lengths, None)
        if self.other_words:
            found["ood_word"] = self._blocks("ood_word", self.other_words, (self.length,), None)
        if self.within:
            found["ood_position"] = self._blocks("ood_position", self.words, (self.length,), None)
        return found

    def _blocks(
        self, split: str, words: tuple[str, ...], lengths: tuple[int, ...], within: int | None, size: int | None = None
    ) -> list[Examples]:
        """The strings of a split: as many of each word and length, up to one."""
        kinds = [(word, length) for word in words for length in lengths]
        size = self.test_size if size is None else size
        found = []
        for number, (word, length) in enumerate(kinds):
            rows = size // len(kinds) + (number < size % len(kinds))
            letters = np.array([ord(letter) - ord("a") for letter in word])
            draws = Draws(self.seed, f"findcats {split} {word}", length)
            strings = without(letters, rows, length, draws)
            is_there = draws.uniform(rows) < 0.5
            places = np.sort(np.argsort(draws.uniform(rows, within or length), axis=1)[:, : len(word)], axis=1)
            np.put_along_axis(
                strings, places, np.where(is_there[:, None], letters, np.take_along_axis(strings, places, 1)), 1
            )
            head = np.broadcast_to([CLASS, *letters, SEPARATOR], (rows, len(word) + 2))
            prompts = np.hstack([head, strings, np.full((rows, 1), SEPARATOR)]).astype(np.int32)
            answers = np.where(is_there, YES, NO)[:, None].astype(np.int32)
            found.append(Examples(prompts, answers, word))
        return found

    def places(self, length: int) -> list[str]:
        return [str(position) for position in range(length)]

    def spans(self, prompts: Ids) -> Ids:
        """Each letter of the string is a part; the word that is looked for, and what sets it apart, stays."""
        parts = (prompts == SEPARATOR).cumsum(1)
        is_letter = (parts == 1) & (prompts < CLASS)
        return np.where(is_letter, np.arange(prompts.shape[1]), -1).astype(np.int32)

    def is_answer(self, prompts: Ids, answers: Ids) -> npt.NDArray[np.bool_]:
        """Whether the letters of the word stand in the string in order."""
        part = (prompts == SEPARATOR).cumsum(1)
        words = np.where((part == 0) & (prompts < CLASS), prompts, -1)[:, 1:]
        sizes = (words >= 0).sum(1)
        done = np.zeros(len(prompts), np.int64)
        for column, inside in zip(prompts.T, (part == 1).T):
            wanted = words[np.arange(len(words)), done.clip(max=words.shape[1] - 1)]
            done += inside & (column == wanted) & (done < sizes)
        return np.where(done == sizes, YES, NO) == answers[:, 0]


def share_without(length: int, letters: int) -> npt.NDArray[np.float64]:
    """The share of strings of n letters without a word of m of them in order, by n and m: (length + 1, letters + 1).

    f(n, m) = (f(n - 1, m - 1) + 25 f(n - 1, m)) / 26, as the next letter is the one that is waited for, or another.
    """
    found = np.ones((length + 1, letters + 1))
    found[:, 0] = 0
    for size in range(1, length + 1):
        found[size, 1:] = (found[size - 1, :-1] + 25 * found[size - 1, 1:]) / 26
    return found


def without(word: Numbers, rows: int, length: int, draws: Draws) -> Numbers:
    """Strings (rows, length) drawn uniformly of all in which the letters of the word do not stand in order."""
    shares = share_without(length, len(word))
    strings = np.empty((rows, length), np.int64)
    done = np.zeros(rows, np.int64)  # letters of the word that have stood
    for place in range(length):
        rest = len(word) - done
        share = shares[length - place - 1, rest - 1] / (26 * shares[length - place, rest])
        is_next = draws.uniform(rows) < share
        wanted = word[done]
        other = draws.below(25, rows)
        strings[:, place] = np.where(is_next, wanted, other + (other >= wanted))
        done += is_next
    return strings
