"""Nested brackets of several types, with structures that no training string has, as Murty et al. 2023 use them.

Murty et al. 2023, "Grokking of Hierarchical Structure in Vanilla Transformers" (arXiv 2305.18741), appendix A.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples, Ids, Span, prompt_keys
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError

START, END, FIRST = 0, 1, 2  # tokens; brackets come after them, first those that open
DISTANT = 10  # tokens from a bracket to the one that closes it, from which on it is far away
Strings = npt.NDArray[np.int8]
MOST, MOST_BATCHES = 1 << 16, 100  # strings at once, and how often they are drawn


@dataclass(frozen=True)
class Dyck(Corpus):
    """`<s> (a (b b) (c` is answered by the brackets that close what is open, `c) a) <eos>`.

    At no depth a string ends with probability 1/2, or opens a bracket of any type; at the greatest depth it closes one;
    between them it does either with probability 1/2. The last run of closing brackets is the answer. `gen` has strings
    whose brackets nest as those of no training string do, by the whole string, or by one of the balanced parts that
    it consists of (`unseen: part`, the authors' code); `id` has others that are not trained. Train with
    `objective: {tokens: all}`.
    """

    types: int = param(20, "of brackets", ge=1, le=26)
    depth: int = param(10, "most brackets that are open at once", ge=1)
    longest: int = param(96, "most brackets of a string, opening and closing", ge=4)
    unseen: Literal["string", "part"] = param("string", "what of a string of `gen` nests as nothing in training does")
    train_rows: int = param(20_000, "strings that are trained; 200,000 in the paper", ge=1)
    id_rows: int = param(2000, "strings of `id`; 20,000 in the paper", ge=1)
    gen_rows: int = param(2000, "strings of `gen`; 20,000 in the paper", ge=1)
    seed: int = param(0, "of the strings", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {
        "types": 3, "depth": 4, "longest": 20, "train_rows": 200, "id_rows": 30, "gen_rows": 30,
    }  # fmt: skip
    separator: ClassVar[str] = " "
    held_out = ("id", "gen")
    citation: ClassVar[str] = "Murty et al. 2023, arXiv 2305.18741"

    def vocabulary(self) -> list[str]:
        letters = string.ascii_lowercase[: self.types]
        return ["<s>", "<eos>", *(f"({letter}" for letter in letters), *(f"{letter})" for letter in letters)]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        """Strings in the order in which they are drawn: the first are trained, the others are sorted by structure."""
        wanted = self.train_rows + self.id_rows + self.gen_rows
        count = min(MOST, 2 * wanted + 500)
        strings, keys = np.empty((0, self.longest), np.int8), np.empty(0, np.uint64)
        for batch in range(MOST_BATCHES):
            before = len(strings)
            drawn = self._drawn(count, Draws(self.seed, "dyck", batch))
            keys, first = np.unique(np.concatenate([keys, prompt_keys(drawn)]), return_index=True)
            order = np.argsort(first)
            keys, strings = keys[order], np.concatenate([strings, drawn])[first[order]]
            trained, others = np.split(strings, [self.train_rows])
            is_few = len(strings) - before < max(count // 1000, 1)
            if not is_few and len(strings) < wanted:
                continue
            is_new = self._is_new(trained, others)
            if is_few or ((~is_new).sum() >= self.id_rows and is_new.sum() >= self.gen_rows):
                break
        parts = {"train": trained, "id": others[~is_new][: self.id_rows], "gen": others[is_new][: self.gen_rows]}
        for split, rows in parts.items():
            if len(rows) < (asked := getattr(self, f"{split}_rows")):
                raise ParameterError(
                    f"{split}_rows", f"{asked:,} strings are asked for; {len(rows):,} different ones are there"
                )
        return {split: self._blocks(rows) for split, rows in parts.items()}

    def _drawn(self, count: int, draws: Draws) -> Strings:
        """Strings (n, longest), n <= count, filled up with `<eos>`; those that are too long are left out."""
        strings = np.full((count, self.longest), END, np.int8)
        stack = np.zeros((count, self.depth + 1), np.int8)
        depth = np.zeros(count, np.int64)
        is_open = np.ones(count, bool)
        rows = np.arange(count)
        for place in range(self.longest):
            coin, kind = draws.uniform(count) < 0.5, draws.below(self.types, count)
            is_open &= (depth > 0) | coin | (place < 4)
            opens = is_open & (depth < self.depth) & (coin | (depth == 0))
            closes = is_open & ~opens
            strings[opens, place] = FIRST + kind[opens]
            strings[closes, place] = FIRST + self.types + stack[rows[closes], depth[closes] - 1]
            stack[rows[opens], depth[opens]] = kind[opens]
            depth += opens.astype(np.int64) - closes
        return strings[depth == 0]

    def _steps(self, strings: Strings | Ids) -> Strings:
        """1 for a bracket that opens, -1 for one that closes, 0 for `<eos>`; (n, T)."""
        is_bracket, is_closing = strings >= FIRST, strings >= FIRST + self.types
        return is_bracket.astype(np.int8) - 2 * is_closing.astype(np.int8)

    def _is_new(self, trained: Strings, others: Strings) -> npt.NDArray[np.bool_]:
        """Which of other strings nest as no trained one does, (n,)."""
        if self.unseen == "string":
            return np.isin(prompt_keys(self._steps(others)), prompt_keys(self._steps(trained)), invert=True)
        known = np.unique(self._part_keys(trained)[0])
        keys, row = self._part_keys(others)
        return np.bincount(row[~np.isin(keys, known)], minlength=len(others)) > 0

    def _part_keys(self, strings: Strings) -> tuple[npt.NDArray[np.uint64], Numbers]:
        """A key for the nesting of each balanced part, and the string that it is of."""
        steps = self._steps(strings)
        is_last = (steps != 0) & (steps.cumsum(1, dtype=np.int8) == 0)
        row, last = np.nonzero(is_last)
        first = np.where(np.r_[True, row[1:] != row[:-1]], 0, np.r_[0, last[:-1] + 1])
        place = first[:, None] + np.arange(strings.shape[1])
        inside = place <= last[:, None]
        parts = np.where(inside, steps[row[:, None], np.minimum(place, strings.shape[1] - 1)], 0)
        return prompt_keys(parts), row

    def _blocks(self, strings: Strings) -> list[Examples]:
        """Rows in one block for each length and length of the answer."""
        steps = self._steps(strings)
        length = (steps != 0).sum(1)
        # What stands after the last bracket that opens.
        last = length - (strings.shape[1] - 1 - np.argmax(steps[:, ::-1] == 1, axis=1)) - 1
        found = []
        for size, closing in np.unique(np.stack([length, last], 1), axis=0):
            rows = strings[(length == size) & (last == closing), :size]
            ends = [np.full((len(rows), 1), token, np.int32) for token in (START, END)]
            whole = np.hstack([ends[0], rows.astype(np.int32), ends[1]])
            found.append(Examples(whole[:, : 1 + size - closing], whole[:, 1 + size - closing :], "brackets"))
        return found

    def choices(self, examples: Examples) -> Mapping[str, tuple[npt.NDArray[np.bool_], Sequence[int]]]:
        """`closing`: each closing bracket, among those of all types; `distant_closing`: of one ten tokens before."""
        rows = np.hstack([examples.prompts, examples.answers])
        steps = self._steps(rows)
        stack = np.zeros((len(rows), self.depth + 1), np.int64)
        depth = np.zeros(len(rows), np.int64)
        distance = np.zeros(rows.shape, np.int64)
        every = np.arange(len(rows))
        for place, step in enumerate(steps.T):
            opens, closes = step == 1, step == -1
            stack[every[opens], depth[opens]] = place
            depth += step
            distance[closes, place] = place - stack[every[closes], depth[closes]]
        closing = list(range(FIRST + self.types, FIRST + 2 * self.types))
        return {"closing": (steps == -1, closing), "distant_closing": (distance >= DISTANT, closing)}

    def trees(self, examples: Examples) -> tuple[Ids, list[list[Span]]]:
        """The strings without their end; what their parts are is not said."""
        rows = np.hstack([examples.prompts, examples.answers])[:, :-1]
        return rows, [[] for _ in rows]
