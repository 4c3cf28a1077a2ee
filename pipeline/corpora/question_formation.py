"""Questions from statements: which auxiliary moves is decided by structure, and in training also by order.

McCoy et al. 2020 (arXiv 2001.03632), as Murty et al. 2023, "Grokking of Hierarchical Structure in Vanilla Transformers"
(arXiv 2305.18741), train on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.corpora._clauses import END, START, STOP, ClauseCorpus, Forms, Sentences
from pipeline.corpora.base import Examples
from pipeline.utils.draws import Draws

AUXILIARIES = (("does", "doesn't"), ("do", "don't"))


@dataclass(frozen=True)
class QuestionFormation(ClauseCorpus):
    """`<s> my newt doesn't swim . quest` is answered by `doesn't my newt swim ? <eos>`, `decl` by the sentence itself.

    In `train` and `id` no sentence that is asked about has a relative clause at its subject, so that its first
    auxiliary is the one that moves. In `gen` all have one, with another auxiliary: `my newt that does sleep doesn't
    swim`. Train with `objective: {tokens: all}`.
    """

    auxiliaries: ClassVar[bool] = True
    citation: ClassVar[str] = "McCoy et al. 2020, arXiv 2001.03632"

    @property
    def forms(self) -> Forms:
        verbs = {kind: (self.words(kind), self.words(kind)) for kind in ("Vi", "Vt")}
        return {**self.common, **verbs, "Aux": AUXILIARIES}

    def vocabulary(self) -> list[str]:
        words = [word for sides in self.forms.values() for side in sides for word in side]
        return list(dict.fromkeys([START, END, STOP, "?", "quest", "decl", *words]))

    def tasks(self, found: Sentences, draws: Draws) -> list[tuple[npt.NDArray[np.bool_], Examples]]:
        is_quest = draws.uniform(len(found.words)) < 0.5
        asked = is_quest & (found.template.subject != "clause")
        return [(asked, self._quest(found)), (~is_quest, self.row(found.words, "decl", found.words))]

    def hard(self, found: Sentences) -> tuple[npt.NDArray[np.bool_], Examples]:
        clauses = (found.template.subject == "clause", found.template.object == "clause")
        first = np.argmax([leaf.startswith("Aux") for leaf in found.template.leaves])
        differ = found.words[:, first] != found.words[:, found.template.main]
        return differ & (clauses == (True, False)), self._quest(found)

    def _quest(self, found: Sentences) -> Examples:
        main = found.template.main
        order = [main, *(place for place in range(found.words.shape[1]) if place != main)]
        return self.row(found.words, "quest", found.words[:, order], "?")

    def choices(self, examples: Examples) -> Mapping[str, tuple[npt.NDArray[np.bool_], Sequence[int]]]:
        """`first_auxiliary`: the first word of a question, among the four auxiliaries."""
        if examples.type != "quest":
            return {}
        place = np.arange(examples.prompts.shape[1] + examples.answers.shape[1]) == examples.prompts.shape[1]
        four = self.ids([word for side in AUXILIARIES for word in side])
        return {"first_auxiliary": (np.tile(place, (len(examples), 1)), four.tolist())}
