"""Entities with ordinal attributes, and comparisons of two of them: what both comparison tasks of Wang et al. share."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from pipeline.config.fields import param
from pipeline.corpora.base import SPECIALS, Corpus, Examples, columns, sample_examples
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError

ATOMIC = ("id_atomic", "ood_atomic")  # splits of atomic facts, which are their types too


class Knowledge(NamedTuple):
    """The value of each entity's attribute, (A, E); per attribute, which entities are ID, (A, M), and OOD, (A, O)."""

    value: Numbers
    id: Numbers
    ood: Numbers


class EntityPairs(NamedTuple):
    """Ordered pairs of entities to be compared by an attribute, three arrays (n,)."""

    attribute: Numbers
    first: Numbers
    second: Numbers


@dataclass(frozen=True)
class AttributeCorpus(Corpus):
    """Base of the corpora in which entities are compared by one of their attributes.

    For each attribute on its own, a share `ood_fraction` of the entities is OOD. A template is the words of a prompt
    and of its answer; words that are not special tokens stand for the fact's own.
    """

    num_entities: int = param(1000, "|E|, the entities", ge=4)
    num_attributes: int = param(20, "attributes of every entity", ge=1)
    num_values: int = param(20, "ordinal values of an attribute", ge=2)
    ood_fraction: float = param(0.1, "share of entities that are OOD in an attribute", gt=0, lt=1)
    iid_fraction: float = param(0.1, "share of the pairs of ID entities held out as `id`", gt=0, lt=1)
    probe_cap: int = param(3000, "most examples in a split other than `train`", ge=1)
    seed: int = param(0, "of the facts and the splits", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {
        "num_entities": 40, "num_attributes": 3, "num_values": 5, "ood_fraction": 0.3
    }  # fmt: skip
    atomic_template: ClassVar[tuple[str, str]]
    inferred_template: ClassVar[tuple[str, str]]
    citation: ClassVar[str] = "Wang et al. 2024, arXiv 2405.15071"

    def __post_init__(self) -> None:
        super().__post_init__()
        ood = self._num_ood
        if not 2 <= ood <= self.num_entities - 2:
            raise ParameterError(
                "ood_fraction",
                f"{self.ood_fraction:g} of {self.num_entities:,} entities makes {ood:,} OOD; at least 2, and 2 others",
            )

    @property
    def _num_ood(self) -> int:
        return self.num_entities - round((1 - self.ood_fraction) * self.num_entities)

    def vocabulary(self) -> list[str]:
        attributes = [f"attr_{i}" for i in range(self.num_attributes)]
        return [
            *(f"<e_{i}>" for i in range(self.num_entities)),
            *(f"<{attribute}>" for attribute in attributes),
            *(f"<{value}>" for value in range(self.num_values)),
            *SPECIALS,
            *(f"<{attribute}_{label}>" for attribute in attributes for label in range(3)),
        ]

    def places(self, length: int) -> list[str]:
        short = {"attribute": "attr", "entity": "e", "first": "e1", "second": "e2"}
        for prompt, _ in (self.inferred_template, self.atomic_template):
            if len(words := prompt.split()) == length:
                return [short.get(word, word) for word in words]
        return super().places(length)

    @functools.cached_property
    def knowledge(self) -> Knowledge:
        draws = Draws(self.seed, "attributes")
        value = draws.below(self.num_values, self.num_attributes, self.num_entities)
        order = np.argsort(draws.uniform(self.num_attributes, self.num_entities), axis=1, kind="stable")
        return Knowledge(value, order[:, self._num_ood :], order[:, : self._num_ood])

    def id_pairs(self) -> tuple[Numbers, Numbers]:
        """The pairs of ID entities, as numbers for `draw_pairs`: those to train on, and those held out as `id`.

        Raises:
            ParameterError: when one of them is empty.
        """
        draws, pairs = Draws(self.seed, "attributes iid"), triangle(self.knowledge.id.shape[1])
        # One attribute at a time, since all the numbers at once would take eight times the memory of what is kept.
        is_iid = np.concatenate([draws.uniform(pairs) < self.iid_fraction for _ in range(self.num_attributes)])
        trained, held_out = np.flatnonzero(~is_iid), np.flatnonzero(is_iid)
        if not (len(trained) and len(held_out)):
            raise ParameterError(
                "iid_fraction", f"{self.iid_fraction:g} of {len(is_iid):,} pairs leaves `id` or the training pool empty"
            )
        return trained, held_out

    def draw_pairs(self, members: Numbers, pool: Numbers, count: int, draws: Draws) -> EntityPairs:
        """At most `count` ordered pairs, drawn from both orders of a pool of pairs of an attribute's members (A, M).

        Pair u of attribute a has the number a * triangle(M) + u, where u counts 01 02 12 03 13 23 ...
        """
        items = 2 * len(pool)
        pair, swapped = np.divmod(draws.choose(items, min(count, items)), 2)
        attribute, u = np.divmod(pool[pair], triangle(members.shape[1]))
        # The root is exact where it matters: 1 + 8u is the square of an odd number for the first u of each j.
        j = ((1 + np.sqrt(1 + 8 * u)) // 2).astype(np.int64)
        i = u - triangle(j)
        first, second = np.where(swapped, j, i), np.where(swapped, i, j)
        return EntityPairs(attribute, members[attribute, first], members[attribute, second])

    def probes(self, iid: Numbers) -> dict[str, Iterable[Examples]]:
        """`id` from the pairs held out among ID entities, `ood` from all pairs of OOD ones, and the atomic facts'."""
        draws, known = Draws(self.seed, "attributes probes"), self.knowledge
        all_ood = np.arange(self.num_attributes * triangle(self._num_ood))
        pools = {"test_inferred_iid": (known.id, iid), "test_inferred_ood": (known.ood, all_ood)}
        inferred = [
            self.compare(self.draw_pairs(members, pool, self.probe_cap, draws), kind)
            for kind, (members, pool) in pools.items()
        ]
        atomic = [sample_examples(examples, self.probe_cap, draws) for examples in self.atomic]
        return {name: [part] for name, part in zip(("id", "ood", *ATOMIC), [*inferred, *atomic])}

    @property
    def atomic(self) -> list[Examples]:
        """The facts (entity, attribute) -> value: the ID ones, then the OOD ones."""
        facts = []
        for kind, members in zip(ATOMIC, (self.knowledge.id, self.knowledge.ood)):
            attribute, entity = np.repeat(np.arange(self.num_attributes), members.shape[1]), members.reshape(-1)
            words = {"entity": entity, "attribute": attribute, "value": self.knowledge.value[attribute, entity]}
            no_value = np.full(len(entity), -1)
            facts.append(self._examples(self.atomic_template, words, kind, no_value, no_value))
        return facts

    def compare(self, pairs: EntityPairs, kind: str) -> Examples:
        """Which value is larger: label 0 for <, 1 for =, 2 for >. The notes are the tokens of the two values."""
        value = self.knowledge.value
        values = value[pairs.attribute, pairs.first], value[pairs.attribute, pairs.second]
        words = {**pairs._asdict(), "label": 3 * pairs.attribute + 1 + np.sign(values[0] - values[1])}
        return self._examples(self.inferred_template, words, kind, *values)

    def _examples(self, template: tuple[str, str], words: dict[str, Numbers], kind: str, *values: Numbers) -> Examples:
        """Facts written by a template, from the numbers of their words, each counted among its kind."""
        sizes = {
            "entity": self.num_entities,
            "attribute": self.num_attributes,
            "value": self.num_values,
            "special": len(SPECIALS),
        }
        start = dict(zip([*sizes, "label"], np.cumsum([0, *sizes.values()])))
        kinds = {"first": "entity", "second": "entity"}
        ids = {word: start[kinds.get(word, word)] + number for word, number in words.items()}
        ids |= {special: start["special"] + i for i, special in enumerate(SPECIALS)}
        prompts, answers = (columns(*(ids[word] for word in part.split())) for part in template)
        tokens = (np.where(value < 0, -1, start["value"] + value) for value in values)
        notes = {f"value_{i}": token.astype(np.int32) for i, token in enumerate(tokens, start=1)}
        return Examples(prompts, answers, kind, notes)


def triangle(n: Any) -> Any:
    """How many pairs n things make, of a number or of each in an array."""
    return n * (n - 1) // 2
