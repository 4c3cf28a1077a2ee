"""The questions of `complex_reasoning` with the facts that answer them in the prompt, among facts about other entities.

Wang et al. 2024, "Grokked Transformers are Implicit Reasoners" (arXiv 2405.15071), section 5: there language models are
given such facts, with and without a chain of thought; here models are trained on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.config.fields import param
from pipeline.corpora._entities import EntityPairs, triangle
from pipeline.corpora.base import SPECIALS, Examples, draw_row
from pipeline.corpora.complex_reasoning import ComplexReasoning
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError

NEEDED = 4  # facts that decide a question
ROWS = 4096  # questions that are written at once
TRIES = 30  # drawn facts until there is one about entities that a prompt does not have yet


@dataclass(frozen=True)
class ComplexInContext(ComplexReasoning):
    """Comparisons of two entities, behind facts: of each entity a comparison with another, and the value of that one.

    Facts are those that `complex_reasoning` trains, three tokens each: `a label c`, `c attribute v`, in random order.
    Among the four that decide stand 0 to `distractors` such pairs about other entities. Values of the two entities are
    never told. Splits: `train` (the questions that `complex_reasoning` trains, each in `prompts` forms), `id` (unseen
    pairs of ID entities), `ood` (pairs of OOD entities), `test_hard` (those of `complex_reasoning`) and the same with n
    pairs of facts about other entities, `hard_0` to `hard_n`; without questions that no such facts decide.
    """

    # Smaller than the paper's: a prompt is ten times as long as a question without facts.
    num_entities: int = param(200, "|E|, the entities", ge=4)
    num_attributes: int = param(2, "attributes of every entity", ge=1)
    ood_fraction: float = param(0.2, "share of entities that are OOD in an attribute", gt=0, lt=1)
    train_fraction: float = param(0.05, "share of the comparisons not held out that is trained", gt=0, le=1)
    chain: bool = param(
        False, "the answer first says the facts that decide: those of the first entity, then the second"
    )
    prompts: int = param(1, "with other facts, for each trained question", ge=1, le=8)
    distractors: int = param(2, "most pairs of facts about other entities in a prompt", ge=0, le=8)

    tiny_values: ClassVar[Mapping[str, Any]] = {**ComplexReasoning.tiny_values, "distractors": 1}
    inferred_template: ClassVar[tuple[str, str]] = ("<q> attribute first <mask> second </q>", "<a> label </a>")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (most := (self.num_entities - NEEDED) // 2) < self.distractors:
            raise ParameterError(
                "distractors", f"{self.distractors} is more than {self.num_entities} entities allow; <= {most}"
            )

    @property
    def held_out(self) -> tuple[str, ...]:
        return ("id", "ood", "test_hard", *self._lengths)

    @property
    def _lengths(self) -> tuple[str, ...]:
        return tuple(f"hard_{count}" for count in range(self.distractors + 1))

    def places(self, length: int) -> list[str]:
        facts, rest = divmod(length - 6, 3)
        if rest or facts < NEEDED:
            return super().places(length)
        told = [f"{part}{fact}" for fact in range(1, facts + 1) for part in ("e", "is", "to")]
        return [*told, "<q>", "attr", "e1", "<mask>", "e2", "</q>"]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        _, iid = self.id_pairs()
        topleft, cross, hard, _ = self.questions()
        known, draws = self.knowledge, Draws(self.seed, "in context probes")
        told = self._told(topleft, cross)
        all_ood = np.arange(self.num_attributes * triangle(known.ood.shape[1]))
        asked = {
            "topleft": (self._repeated(topleft), "train_inferred_topleft", None),
            "cross": (self._repeated(cross), "train_inferred_cross", None),
            "id": (self.draw_pairs(known.id, iid, self.probe_cap, draws), "test_inferred_iid", None),
            "ood": (self.draw_pairs(known.ood, all_ood, self.probe_cap, draws), "test_inferred_ood", None),
            "test_hard": (hard, "test_hard", None),
            **{name: (hard, "test_hard", count) for count, name in enumerate(self._lengths)},
        }
        written = {
            name: list(self._written(pairs, told, kind, Draws(self.seed, f"in context {name}"), count))
            for name, (pairs, kind, count) in asked.items()
        }
        train = [*written.pop("topleft"), *written.pop("cross")]
        if not train:
            raise ParameterError("train_fraction", f"{self.train_fraction:g} leaves no question that told facts decide")
        return {"train": train, **{name: blocks for name, blocks in written.items() if blocks}}

    def _repeated(self, pairs: EntityPairs) -> EntityPairs:
        return EntityPairs(*(np.tile(column, self.prompts) for column in pairs))

    def _told(self, *trained: EntityPairs) -> npt.NDArray[np.bool_]:
        """Which entity is compared, in an attribute, with which ID entity, whose value is told, (A, E, E)."""
        known = self.knowledge
        compared = np.zeros((self.num_attributes, self.num_entities, self.num_entities), bool)
        for pairs in trained:
            compared[pairs.attribute, pairs.first, pairs.second] = True
            compared[pairs.attribute, pairs.second, pairs.first] = True
        is_id = np.zeros(known.value.shape, bool)
        np.put_along_axis(is_id, known.id, True, axis=1)
        return compared & is_id[:, None, :]

    def _written(
        self, pairs: EntityPairs, told: npt.NDArray[np.bool_], kind: str, draws: Draws, count: int | None
    ) -> Iterator[Examples]:
        """The questions that told facts decide, with `count` pairs of other facts; None: 0 to `distractors`, drawn."""
        for start in range(0, len(pairs.first), ROWS):
            part = EntityPairs(*(column[start : start + ROWS] for column in pairs))
            nears = self._decide(part, told, draws)
            found = nears[:, 0] >= 0
            part, nears = EntityPairs(*(column[found] for column in part)), nears[found]
            numbers = draws.below(self.distractors + 1, len(nears)) if count is None else np.full(len(nears), count)
            for number in range(self.distractors + 1):
                rows = np.flatnonzero(numbers == number)
                asked = EntityPairs(*(column[rows] for column in part))
                compared = np.stack([asked.first, nears[rows, 0], asked.second, nears[rows, 1]], axis=1)
                whole = self._beside(asked.attribute, compared, told, number, draws)
                kept = whole[:, -1] >= 0
                if kept.any():
                    yield self._told_and_asked(
                        EntityPairs(*(column[kept] for column in asked)), whole[kept], kind, draws
                    )

    def _decide(self, pairs: EntityPairs, told: npt.NDArray[np.bool_], draws: Draws) -> Numbers:
        """Entities c and d such that comparing a with c, and b with d, and the values of c and d, decide a question.

        They are drawn of those that do, (n, 2); -1 where there are none. If a > b, for example, a >= c >= d >= b.
        """
        attribute, first, second = pairs
        rows, value = np.arange(len(first)), self.knowledge.value[attribute]
        a, b = value[rows, first][:, None], value[rows, second][:, None]
        sign = np.sign(a - b)
        other = np.ones(value.shape, bool)
        other[rows, first] = other[rows, second] = False
        near_a = other & told[attribute, first] & np.where(sign == 0, value == a, sign * (a - value) >= 0)
        near_b = other & told[attribute, second] & np.where(sign == 0, value == b, sign * (value - b) >= 0)
        rank, none = sign * value, self.num_values + 1
        ranks_b = np.where(near_b, rank, none)
        least, next_least = np.partition(ranks_b, 1, axis=1)[:, :2].T
        # The lowest that d may have where it is not c itself.
        lowest = np.where(ranks_b == least[:, None], next_least[:, None], least[:, None])
        c, found_c = draw_row(near_a & (rank >= lowest) & (lowest < none), draws)
        near_b[rows, c] = False
        d, found_d = draw_row(near_b & (rank <= rank[rows, c][:, None]), draws)
        return np.where((found_c & found_d)[:, None], np.stack([c, d], axis=1), -1)

    def _beside(
        self, attribute: Numbers, compared: Numbers, told: npt.NDArray[np.bool_], count: int, draws: Draws
    ) -> Numbers:
        """The compared entities (n, 4) and `count` further pairs of them, none twice; -1 where none was found."""
        rows = np.arange(len(compared))
        used = np.zeros((len(compared), self.num_entities), bool)
        np.put_along_axis(used, compared, True, axis=1)
        of, *ends = np.nonzero(told)
        begin, end = (np.searchsorted(of, attribute, side) for side in ("left", "right"))
        alive = rows
        for _ in range(count):
            pair, left = np.full((len(rows), 2), -1), alive
            for _ in range(TRIES if len(left) else 0):
                drawn = begin[left] + draws.below(end[left] - begin[left], len(left))
                entity, near = (side[drawn] for side in ends)
                free = ~(used[left, entity] | used[left, near])
                pair[left[free]] = np.stack([entity, near], axis=1)[free]
                used[left[free], entity[free]] = used[left[free], near[free]] = True
                left = left[~free]
                if not len(left):
                    break
            compared = np.hstack([compared, pair])
            alive = np.setdiff1d(alive, left)
        compared[np.setdiff1d(rows, alive), -1] = -1
        return compared

    def _told_and_asked(self, asked: EntityPairs, compared: Numbers, kind: str, draws: Draws) -> Examples:
        """Examples from the entities whose comparisons are told, (n, 2k): the deciding ones first."""
        attribute, value = asked.attribute[:, None], self.knowledge.value[asked.attribute]
        entity, near = compared[:, ::2], compared[:, 1::2]
        of_entity, of_near = (np.take_along_axis(value, who, axis=1) for who in (entity, near))
        first_value = self.num_entities + self.num_attributes
        first_label = first_value + self.num_values + len(SPECIALS)
        labels = first_label + 3 * attribute + 1 + np.sign(of_entity - of_near)
        attributes = np.broadcast_to(attribute + self.num_entities, near.shape)
        comparisons, values = (
            np.stack(parts, axis=2) for parts in ((entity, labels, near), (near, attributes, first_value + of_near))
        )
        facts = np.stack([comparisons, values], axis=2).reshape(len(compared), -1, 3)
        order = np.argsort(draws.uniform(*facts.shape[:2]), axis=1, kind="stable")
        shuffled = np.take_along_axis(facts, order[:, :, None], axis=1).reshape(len(facts), -1)
        question = self.compare(asked, kind)
        said = facts[:, :NEEDED].reshape(len(facts), -1) if self.chain else shuffled[:, :0]
        prompts, answers = (
            np.hstack(parts).astype(np.int32) for parts in ((shuffled, question.prompts), (said, question.answers))
        )
        return Examples(prompts, answers, kind, question.notes)
