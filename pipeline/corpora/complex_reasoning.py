"""Comparison of entities whose values must first be inferred from comparisons with others.

Wang et al. 2024, "Grokked Transformers are Implicit Reasoners" (arXiv 2405.15071), section 5 and appendix F.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.config.fields import param
from pipeline.corpora._entities import AttributeCorpus, EntityPairs
from pipeline.corpora.base import Examples, chunks, sample_examples
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError


@dataclass(frozen=True)
class ComplexReasoning(AttributeCorpus):
    """Comparisons of two entities by an attribute, where the values of OOD entities are never told.

    Splits: `train` (ID atomic facts, and a share of the comparisons of two ID entities and of an ID with an OOD
    entity), `id` (unseen pairs of ID entities), `ood` (pairs of OOD entities), `ood_atomic` (the values never told),
    `test_hard` (pairs of OOD entities that trained comparisons decide only together with atomic facts; left out where
    there are none), and the probes of training data `train_inferred_topleft`, `train_inferred_cross`, `id_atomic`.
    """

    train_fraction: float = param(0.03, "share of the comparisons not held out that is trained", gt=0, le=1)
    hard_per_label: int = param(50, "most examples of each label in `test_hard`", ge=1)
    seed: int = param(0, "of the facts and the splits", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {**AttributeCorpus.tiny_values, "train_fraction": 0.1}
    atomic_template: ClassVar[tuple[str, str]] = ("<q> entity attribute <mask> </q>", "<a> value </a>")
    inferred_template: ClassVar[tuple[str, str]] = ("attribute <q> first <mask> second </q>", "<a> label </a>")

    @property
    def held_out(self) -> tuple[str, ...]:
        return ("id", "ood", "ood_atomic", "test_hard")

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        _, iid = self.id_pairs()
        topleft, cross, hard, draws = self.questions()
        inferred = {
            "train_inferred_topleft": self.compare(topleft, "train_inferred_topleft"),
            "train_inferred_cross": self.compare(cross, "train_inferred_cross"),
        }
        train = (self.atomic[0], *inferred.values())
        return {
            "train": (block for part in train for block in chunks(part)),
            **self.probes(iid),
            **{name: [sample_examples(part, self.probe_cap, draws)] for name, part in inferred.items()},
            **({"test_hard": [self.compare(hard, "test_hard")]} if len(hard.first) else {}),
        }

    def questions(self) -> tuple[EntityPairs, EntityPairs, EntityPairs, Draws]:
        """The comparisons that are trained, of ID entities and of an ID with an OOD entity, and those of `test_hard`.

        With the draws that they come from, as they stand after them.
        """
        pool, _ = self.id_pairs()
        draws = Draws(self.seed, "complex reasoning train")
        topleft = self.draw_pairs(self.knowledge.id, pool, self._share(2 * len(pool)), draws)
        cross = self._draw_cross(draws)
        return topleft, cross, self._draw_hard(self.hard_pairs(topleft, cross), draws), draws

    def _share(self, pool: int) -> int:
        wanted = round(self.train_fraction * pool)
        if not wanted:
            raise ParameterError("train_fraction", f"{self.train_fraction:g} of {pool:,} comparisons is none")
        return wanted

    def _draw_cross(self, draws: Draws) -> EntityPairs:
        """The trained pairs of an ID and an OOD entity, in both orders."""
        known = self.knowledge
        shape = (self.num_attributes, known.id.shape[1], known.ood.shape[1], 2)
        items = int(np.prod(shape))
        attribute, i, j, swapped = map(np.asarray, np.unravel_index(draws.choose(items, self._share(items)), shape))
        pair = known.id[attribute, i], known.ood[attribute, j]
        return EntityPairs(attribute, np.where(swapped, *pair[::-1]), np.where(swapped, *pair))

    def hard_pairs(self, topleft: EntityPairs, cross: EntityPairs) -> EntityPairs:
        """All ordered pairs of OOD entities that the trained facts decide, but the trained comparisons alone do not.

        A pair is decided by a chain of facts a >= b from one to the other; equality is such a fact both ways.
        """
        ood = self.knowledge.ood
        trained = EntityPairs(*map(np.concatenate, zip(topleft, cross)))
        same = np.eye(ood.shape[1], dtype=bool)
        attribute, i, j = np.nonzero(self._decided(cross) & ~self._chained(trained) & ~same)
        return EntityPairs(attribute, ood[attribute, i], ood[attribute, j])

    def _decided(self, cross: EntityPairs) -> npt.NDArray[np.bool_]:
        """Which pairs of OOD entities (A, O, O) the trained comparisons with ID entities decide, whose values are told.

        Since ID entities are in order, what matters is the highest value that an OOD entity is known to reach and the
        lowest that it is known not to exceed; chains through a third OOD entity are no tighter.
        """
        value, ood = self.knowledge.value, self.knowledge.ood
        reaches, exceeds_not = np.full(value.shape, -1), np.full(value.shape, self.num_values)
        for entity, other in ((cross.first, cross.second), (cross.second, cross.first)):
            place = cross.attribute, entity
            told = value[cross.attribute, other]
            np.maximum.at(reaches, place, np.where(value[place] >= told, told, -1))
            np.minimum.at(exceeds_not, place, np.where(value[place] <= told, told, self.num_values))
        low, high = (np.take_along_axis(bound, ood, axis=1) for bound in (reaches, exceeds_not))
        at_least = low[:, :, None] >= high[:, None, :]
        return at_least | at_least.swapaxes(1, 2)

    def _chained(self, pairs: EntityPairs) -> npt.NDArray[np.bool_]:
        """Which pairs of OOD entities (A, O, O) chains of these comparisons decide.

        A node is an entity in an attribute, and an edge leads from it to one that it is shown to be at least. Each node
        keeps, as bits, the OOD entities that lead to it; they pass along all edges at once until nothing is new.
        """
        value, ood = self.knowledge.value.reshape(-1), self.knowledge.ood
        nodes = [pairs.attribute * self.num_entities + entity for entity in (pairs.first, pairs.second)]
        source, target = (np.concatenate(ends) for ends in (nodes, nodes[::-1]))
        edges = np.flatnonzero(value[source] >= value[target])
        edges = edges[np.argsort(target[edges], kind="stable")]
        source, (target, start) = source[edges], np.unique(target[edges], return_index=True)
        number = np.arange(ood.shape[1])
        word, bit = number // 64, np.uint64(1) << (number % 64).astype(np.uint64)
        places = ood + self.num_entities * np.arange(self.num_attributes)[:, None]
        leading = np.zeros((len(value), word[-1] + 1), np.uint64)
        leading[places, word] = bit
        while True:
            grown = leading[target] | np.bitwise_or.reduceat(leading[source], start, axis=0)
            if np.array_equal(grown, leading[target]):
                break
            leading[target] = grown
        at_least = (leading[places][:, :, word] & bit) > 0
        return at_least | at_least.swapaxes(1, 2)

    def _draw_hard(self, pairs: EntityPairs, draws: Draws) -> EntityPairs:
        """As many of each label, as far as there are."""
        value = self.knowledge.value
        order = np.sign(value[pairs.attribute, pairs.first] - value[pairs.attribute, pairs.second])
        rows = [np.flatnonzero(order == sign) for sign in (-1, 0, 1)]
        rows = [pool[draws.choose(len(pool), min(self.hard_per_label, len(pool)))] for pool in rows]
        return EntityPairs(*(part[np.concatenate(rows)] for part in pairs))
