"""Past tense to present tense: with what a verb agrees is decided by structure, and in training also by order.

McCoy et al. 2020 (arXiv 2001.03632), as Murty et al. 2023, "Grokking of Hierarchical Structure in Vanilla Transformers"
(arXiv 2305.18741), train on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.corpora._clauses import END, START, STOP, ClauseCorpus, Forms, Sentences, past
from pipeline.corpora.base import Examples, Ids
from pipeline.utils.draws import Draws

NAMES = ("PRESENT", "PAST")


@dataclass(frozen=True)
class TenseReinflection(ClauseCorpus):
    """`<s> my newts near the yak swam . PRESENT` is answered by `my newts near the yak swim . <eos>`, `PAST` by itself.

    In `train` and `id` the last noun before the main verb of a sentence that is put into the present has the number of
    the subject. In `gen` it has the other number, as here. Train with `objective: {tokens: all}`.
    """

    auxiliaries: ClassVar[bool] = False
    citation: ClassVar[str] = "McCoy et al. 2020, arXiv 2001.03632"

    def _present(self, kind: str) -> tuple[list[str], list[str]]:
        verbs = self.words(kind)
        return [f"{verb}s" for verb in verbs], verbs

    @property
    def _inflected(self) -> Forms:
        """The words of sentences in the present."""
        return {**self.common, "Vi": self._present("Vi"), "Vt": self._present("Vt")}

    @property
    def forms(self) -> Forms:
        in_past = {kind: list(map(past, self.words(kind))) for kind in ("Vi", "Vt")}
        return {**self.common, **{kind: (verbs, verbs) for kind, verbs in in_past.items()}}

    def vocabulary(self) -> list[str]:
        sides = [side for pair in (*self.forms.values(), *self._inflected.values()) for side in pair]
        return list(dict.fromkeys([START, END, STOP, *NAMES, *itertools.chain(*sides)]))

    @cached_property
    def _to_present(self) -> Ids:
        """For the number of a subject, 1 for the plural, and each word: the word in the present; (2, V)."""
        table = np.tile(np.arange(len(self.vocabulary()), dtype=np.int32), (2, 1))
        for kind in ("Vi", "Vt"):
            for number, side in enumerate(self._present(kind)):
                table[number, self.ids(self.forms[kind][0])] = self.ids(side)
        return table

    def _inflect(self, found: Sentences) -> Ids:
        """Sentences in the present."""
        columns = []
        for leaf, words in zip(found.template.leaves, found.words.T):
            kind, _, number = leaf.partition(":")
            columns.append(self._to_present[found.numbers[number], words] if kind in ("Vi", "Vt") else words)
        return np.stack(columns, 1)

    def _agrees(self, found: Sentences) -> npt.NDArray[np.bool_]:
        """Whether the last noun before the main verb has the number of the subject."""
        last = [leaf for leaf in found.template.leaves[: found.template.main] if leaf.startswith("N:")][-1]
        same: npt.NDArray[np.bool_] = found.numbers[last[-1]] == found.numbers["s"]
        return same

    def tasks(self, found: Sentences, draws: Draws) -> list[tuple[npt.NDArray[np.bool_], Examples]]:
        is_present = draws.uniform(len(found.words)) < 0.5
        rows = self.row(found.words, NAMES[0], self._inflect(found))
        return [(is_present & self._agrees(found), rows), (~is_present, self.row(found.words, NAMES[1], found.words))]

    def hard(self, found: Sentences) -> tuple[npt.NDArray[np.bool_], Examples]:
        return ~self._agrees(found), self.row(found.words, NAMES[0], self._inflect(found))

    def choices(self, examples: Examples) -> Mapping[str, tuple[npt.NDArray[np.bool_], Sequence[int]]]:
        """`main_verb`: the main verb in the present, among all verbs in the present."""
        if examples.type != NAMES[0]:
            return {}
        verbs = self.ids([word for kind in ("Vi", "Vt") for side in self._present(kind) for word in side])
        is_verb = np.isin(examples.answers, verbs)
        # The verb of a clause that follows the subject comes first.
        clause = np.isin(examples.answers[:, 2], self.ids(self.common["Rel"][0]))
        is_main = is_verb & (is_verb.cumsum(1) == np.where(clause, 2, 1)[:, None])
        return {"main_verb": (np.hstack([np.zeros_like(examples.prompts, bool), is_main]), verbs.tolist())}
