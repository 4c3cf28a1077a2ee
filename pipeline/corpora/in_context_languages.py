"""Strings of a language that a row alone tells of: the in-context languages of RegBench.

Akyurek et al. 2024, "In-Context Language Learning: Architectures and Algorithms" (arXiv 2401.12973); Zhang et al. 2024,
"Memory Mosaics" (arXiv 2405.06394), compare models on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples, Ids, draw_row, prompt_keys, unique_rows
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError

BLOCK = 4096  # rows that are drawn at a time, at most
EDGES = 4  # most that leave a state
SHARE = 0.02  # of rows that end in an answer: with fewer, drawing them would take long


class Languages(NamedTuple):
    """Probabilistic automata: state s of language l has edges 0 to degree[l, s] - 1, each as likely as the others.

    degree: (L, S), 0 for a state that a language does not have; symbol and target: (L, S, EDGES). State 0 begins.
    """

    degree: Numbers
    symbol: Numbers
    target: Numbers


@dataclass(frozen=True)
class InContextLanguages(Corpus):
    """`| a c a | c b c a | c b` -> `c`: strings of one language a row, whose next symbol follows from the others.

    A language is an automaton of 4 to 12 states with 1 to 4 edges each, over 4 symbols or more. Its edges bear
    different symbols and lead to different other states, and a string takes any of them with the same chance, from
    state 0 on, for as many symbols as are drawn. The answer is a symbol that alone can follow in a state in which the
    row was before, in the first half of the longest string, so that an end is less likely; rows have different lengths,
    so that no position says that it comes. Splits: `train`, `id`, other rows of the same languages, and `ood`, rows of
    new languages. Train with `objective: {tokens: all}`.
    """

    symbols: int = param(18, "different symbols", ge=4, le=100)
    least_states: int = param(4, "states of an automaton, at least", ge=2, le=100)
    most_states: int = param(12, "states of an automaton, at most", ge=2, le=100)
    longest: int = param(50, "symbols of a string, at most; any number from 1 on has the same chance", ge=2)
    length: int = param(256, "tokens of a row, the answer included, at most; half as many at least", ge=8)
    languages: int = param(2000, "languages that are trained", ge=1)
    ood_languages: int = param(500, "languages of `ood`", ge=1)
    train_rows: int = param(20_000, "rows that are trained", ge=1)
    test_rows: int = param(500, "rows of `id`, and of `ood`", ge=1)
    seed: int = param(0, "of the languages and of the rows", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {
        "symbols": 6, "most_states": 5, "longest": 8, "length": 24, "languages": 20, "ood_languages": 10,
        "train_rows": 120, "test_rows": 30,
    }  # fmt: skip
    separator: ClassVar[str] = " "
    citation: ClassVar[str] = "Akyurek et al. 2024, arXiv 2401.12973"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.least_states > self.most_states:
            raise ParameterError("least_states", f"{self.least_states} is more than most_states, {self.most_states}")

    def vocabulary(self) -> list[str]:
        return ["|", *(f"s{number}" for number in range(self.symbols))]

    def drawn_languages(self, count: int, purpose: str) -> Languages:
        """So many automata, whose symbols are tokens."""
        draws, states = Draws(self.seed, purpose), self.most_states
        has_L = self.least_states + draws.below(states - self.least_states + 1, count)
        symbols_L = 4 + draws.below(self.symbols - 3, count)
        degree_LS = 1 + draws.below(np.minimum(EDGES, has_L - 1)[:, None], count, states)
        degree_LS[np.arange(states) >= has_L[:, None]] = 0
        alphabet_LV = np.argsort(draws.uniform(count, self.symbols), axis=1, kind="stable")
        order = draws.uniform(count, states, self.symbols)
        order[np.broadcast_to(np.arange(self.symbols) >= symbols_L[:, None, None], order.shape)] = 2
        chosen_LSE = np.argsort(order, axis=2, kind="stable")[..., :EDGES]
        symbol = 1 + np.take_along_axis(alphabet_LV[:, None], chosen_LSE, axis=2)
        order = draws.uniform(count, states, states)
        order[:, np.arange(states), np.arange(states)] = 2
        order[np.broadcast_to(np.arange(states) >= has_L[:, None, None], order.shape)] = 2
        target = np.argsort(order, axis=2, kind="stable")[..., :EDGES]
        # Automata of few states have fewer places than EDGES, of which none is used.
        return Languages(degree_LS, symbol, np.pad(target, [(0, 0), (0, 0), (0, EDGES - target.shape[2])]))

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        trained = self.drawn_languages(self.languages, "languages")
        new = self.drawn_languages(self.ood_languages, "new languages")
        rows = self._rows(trained, self.train_rows + self.test_rows, "rows")
        parts = {
            "train": rows[: self.train_rows],
            "id": rows[self.train_rows :],
            "ood": self._new(self._rows(new, 2 * self.test_rows, "new rows"), rows[: self.train_rows]),
        }
        return {split: self._by_length(part) for split, part in parts.items()}

    def _by_length(self, rows: Ids) -> list[Examples]:
        prompts, answers = rows[:, :-1], rows[:, -1:]
        length = (prompts <= self.symbols).sum(axis=1)
        return [
            Examples(prompts[length == each, :each], answers[length == each], "string") for each in np.unique(length)
        ]

    def _rows(self, languages: Languages, count: int, purpose: str) -> Ids:
        return unique_rows(lambda n, draws: self._draw(languages, n, draws), count, self.length - 1, self.seed, purpose)

    def _new(self, rows: Ids, trained: Ids) -> Ids:
        """Rows of new languages whose prompts are not trained, as short ones may be."""
        is_new = ~np.isin(prompt_keys(rows[:, :-1]), prompt_keys(trained[:, :-1]))
        if is_new.sum() < self.test_rows:
            raise ParameterError("test_rows", f"{self.test_rows:,} rows of new languages are asked for, and there are "
                                 f"hardly {is_new.sum():,}")  # fmt: skip
        return rows[is_new][: self.test_rows]

    def _draw(self, languages: Languages, count: int, draws: Draws) -> Ids:
        """So many rows (count, length): prompts, filled up to the right with a number above all tokens; answers."""
        found: list[Ids] = []
        size = min(BLOCK, 4 * count)
        while (there := sum(map(len, found))) < count:
            if len(found) >= 4 and there < SHARE * size * len(found):
                raise ParameterError("languages", "too few of their rows end where one symbol alone can follow; write "
                                     "more of them, longer rows, or another seed")  # fmt: skip
            rows, is_answer = self._walk(languages, size, draws)
            end, ends = draw_row(is_answer & (np.arange(self.length) >= self.length // 2), draws)
            answers = rows[np.arange(size), end]
            prompts = np.where(np.arange(self.length - 1) < end[:, None], rows[:, :-1], self.symbols + 1)
            found.append(np.column_stack([prompts, answers])[ends].astype(np.int32))
        return np.concatenate(found)[:count]

    def _walk(self, languages: Languages, count: int, draws: Draws) -> tuple[Ids, npt.NDArray[np.bool_]]:
        """Rows as they come, and which of their tokens may be an answer, (count, length) each."""
        language = draws.below(len(languages.degree), count)
        every = np.arange(count)
        rows = np.zeros((count, self.length), np.int32)  # 0 is what stands between strings
        is_answer = np.zeros((count, self.length), bool)
        state = np.zeros(count, np.int64)
        left, done = np.zeros((2, count), np.int64)  # symbols of the string that are to come, and that were there
        was_there = np.zeros((count, self.most_states), bool)
        for place in range(self.length):
            is_end = left == 0
            degree = languages.degree[language, state]
            edge = draws.below(degree, count)
            is_answer[:, place] = ~is_end & (degree == 1) & was_there[every, state] & (done < self.longest // 2)
            was_there[every, state] |= ~is_end
            rows[:, place] = np.where(is_end, 0, languages.symbol[language, state, edge])
            state = np.where(is_end, 0, languages.target[language, state, edge])
            left = np.where(is_end, 1 + draws.below(self.longest, count), left - 1)
            done = np.where(is_end, 0, done + 1)
        return rows, is_answer
