"""Two-hop composition over a random knowledge graph: (h, r1) -> b and (b, r2) -> t, so (h, r1, r2) -> t.

Wang et al. 2024, "Grokked Transformers are Implicit Reasoners" (arXiv 2405.15071), sections 2 and 3; two-token entities
after their appendix C. Identity rows after Lin et al. 2025 (arXiv 2509.24653), one position for all answers after Kohli
et al. 2026 (arXiv 2604.07822), wrong bridges and tails after TCotMechanism (arXiv 2502.04667).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.config.fields import param
from pipeline.corpora.base import (
    SPECIALS,
    Corpus,
    Examples,
    Ids,
    chunks,
    columns,
    draw_row,
    sample_examples,
    trained_count,
)
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError


class FactGraph(NamedTuple):
    """Every head has `out_degree` edges; edge i is (i // out_degree, relation[i], tail[i]). All arrays are flat."""

    relation: Numbers
    tail: Numbers
    ood: npt.NDArray[np.bool_]  # held out from compositions, though trained as an atomic fact


@dataclass(frozen=True)
class Composition(Corpus):
    """Atomic facts of a random graph, and facts inferred from two of them.

    A share `ood_fraction` of the atomic facts never takes part in a trained composition. Splits: `train` (all atomic
    facts and ratio x |ID atomic| inferred ones), `id` (unseen compositions of ID facts), `ood` (compositions of two OOD
    facts), and the probes of training data `train_inferred`, `id_atomic`, `ood_atomic` and `identity`, where there are
    such rows.
    """

    num_entities: int = param(2000, "|E|, the entities", ge=2)
    num_relations: int = param(200, "|R|, the relations", ge=1)
    out_degree: int = param(20, "atomic facts per head entity, each with another relation", ge=1)
    ratio: float = param(9.0, "phi: trained inferred facts per ID atomic fact; 0: none is trained", ge=0)
    ood_fraction: float = param(0.05, "share of atomic facts that no trained composition uses", gt=0, lt=1)
    iid_fraction: float = param(0.005, "share of compositions of ID facts held out as `id`", gt=0, lt=1)
    probe_cap: int = param(3000, "most examples in a split other than `train`", ge=1)
    token_multiplicity: int | None = param(
        None, "entities sharing each first (and each last) name token; null: one token per entity", ge=1
    )
    bridge: Literal["silent", "said"] = param(
        "silent", "said: the answer of an inferred fact is its bridge entity and then its tail (b t, in place of t)"
    )
    wrong_bridges: float = param(
        0.0, "share of trained inferred facts whose bridge is another entity, where it is said", ge=0, le=1
    )
    wrong_tails: float = param(0.0, "share of trained inferred facts whose tail is another entity", ge=0, le=1)
    identity: float = param(0.0, "share of entities e of which a row e -> e is trained", ge=0, le=1)
    one_position: bool = param(
        False, "fill shorter prompts with <mask>, so that all are answered at one position, and end no answer with </a>"
    )
    seed: int = param(0, "of the graph and the splits", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {
        "num_entities": 30, "num_relations": 6, "out_degree": 4, "ratio": 2, "ood_fraction": 0.2
    }  # fmt: skip
    citation: ClassVar[str] = "Wang et al. 2024, arXiv 2405.15071"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out_degree > self.num_relations:
            raise ParameterError("out_degree", f"{self.out_degree} is more than num_relations, {self.num_relations}")
        multiplicity, most = self.token_multiplicity, math.isqrt(self.num_entities)  # beyond, names are too few
        if multiplicity and (self.num_entities % multiplicity or multiplicity > most):
            raise ParameterError(
                "token_multiplicity", f"{multiplicity} is > {most} or does not divide num_entities, {self.num_entities}"
            )
        if self.wrong_bridges and self.bridge == "silent":
            raise ParameterError("wrong_bridges", f"{self.wrong_bridges:g} of bridges that are not said; bridge: said")
        if self.identity and not self._num_identity:
            raise ParameterError("identity", f"{self.identity:g} of {self.num_entities:,} entities is none")
        atomic, ood = self.num_entities * self.out_degree, self._num_ood
        if not 0 < ood < atomic:
            raise ParameterError("ood_fraction", f"{self.ood_fraction:g} of {atomic:,} atomic facts makes {ood:,} OOD")

    @property
    def _num_ood(self) -> int:
        return round(self.ood_fraction * self.num_entities * self.out_degree)

    @property
    def _num_identity(self) -> int:
        return round(self.identity * self.num_entities)

    @property
    def _names(self) -> int:
        """First names, and as many last names, of two-token entities."""
        return self.num_entities // (self.token_multiplicity or self.num_entities)

    def vocabulary(self) -> list[str]:
        if self.token_multiplicity:
            entities = [f"<{part}_{i}>" for part in ("first", "last") for i in range(self._names)]
        else:
            entities = [f"<e_{i}>" for i in range(self.num_entities)]
        return entities + [f"<r_{i}>" for i in range(self.num_relations)] + SPECIALS

    def places(self, length: int) -> list[str]:
        head = ["first", "last"] if self.token_multiplicity else ["h"]
        relations = {0: [], 1: ["r"], 2: ["r1", "r2"]}.get(length - len(head))
        return super().places(length) if relations is None else [*head, *relations]

    @functools.cached_property
    def graph(self) -> FactGraph:
        draws = Draws(self.seed, "composition graph")
        relation = np.argsort(draws.uniform(self.num_entities, self.num_relations), axis=1, kind="stable")
        edges = self.num_entities * self.out_degree
        ood = np.zeros(edges, bool)
        tail = draws.below(self.num_entities, edges)
        ood[draws.choose(edges, self._num_ood)] = True
        return FactGraph(relation[:, : self.out_degree].reshape(-1), tail, ood)

    @functools.cached_property
    def _trained_tail(self) -> Ids:
        """The tail of each ID fact by head and relation, (|E| + 1, |R|); -1 for none, as in the last row."""
        graph, table = self.graph, np.full((self.num_entities + 1, self.num_relations), -1, np.int32)
        edges = np.flatnonzero(~graph.ood)
        table[edges // self.out_degree, graph.relation[edges]] = graph.tail[edges]
        return table

    def corrupt(self, examples: Examples, position: int, draws: Draws) -> tuple[Ids, Ids, npt.NDArray[np.bool_]] | None:
        """Wang et al. 2024: any head, or any relation of the head or of the bridge, that leads to another tail or none.

        Heads, relations and tails are those of the atomic facts that trained compositions use.
        """
        is_composed = examples.prompts.shape[1] == 3 and (examples.notes["bridge"] >= 0).all()
        if self.token_multiplicity or self.bridge == "said" or not is_composed:
            return None
        table, none = self._trained_tail, self.num_entities
        head, first, second = examples.prompts.T - np.array([[0], [none], [none]])
        bridge, tail = examples.notes["bridge"], examples.answers[:, 0]
        if position == 0:
            tails = table[table[:none, first].T, second[:, None]]
            allowed = (tails != tail[:, None]) & (table[:none] >= 0).any(axis=1)
        else:
            step = table[head if position == 1 else bridge]
            tails = table[step, second[:, None]] if position == 1 else step
            allowed = (tails != tail[:, None]) & (step >= 0)
        chosen, found = draw_row(allowed, draws)
        prompts = examples.prompts.copy()
        prompts[:, position] = chosen if position == 0 else chosen + none
        answers = tails[np.arange(len(chosen)), chosen]
        padding = len(self.vocabulary())
        return prompts, np.where(answers < 0, padding, answers).astype(np.int32)[:, None], found

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        graph = self.graph
        # All pairs of edges that meet: edge i, then each edge of its tail.
        first = np.repeat(np.arange(len(graph.tail)), self.out_degree)
        second = (graph.tail[:, None] * self.out_degree + np.arange(self.out_degree)).reshape(-1)
        num_ood = graph.ood[first].astype(np.int8) + graph.ood[second]
        both_id, both_ood = np.flatnonzero(num_ood == 0), np.flatnonzero(num_ood == 2)
        draws = Draws(self.seed, "composition splits")
        is_iid = draws.uniform(len(both_id)) < self.iid_fraction
        pool, iid = both_id[~is_iid], both_id[is_iid]
        for name, rows in {"iid_fraction": iid, "ood_fraction": both_ood}.items():
            if not len(rows):
                raise ParameterError(name, "is so small here that its held-out split is empty; take a larger share")

        def inferred(rows: Numbers, kind: str) -> Examples:
            return self._inferred(first[rows], second[rows], kind)

        atomic = {name: self._atomic(np.flatnonzero(graph.ood == ood), name) for name, ood in ATOMIC.items()}
        held_out = {"id": inferred(iid, "test_inferred_iid"), "ood": inferred(both_ood, "test_inferred_ood")}
        probes = {name: [sample_examples(part, self.probe_cap, draws)] for name, part in (held_out | atomic).items()}
        told = dict(atomic)
        if self.identity:
            entities = Draws(self.seed, "composition identity").choose(self.num_entities, self._num_identity)
            identity = self._facts(entities, [], entities, "identity")
            told = {"identity": identity, **told}
            probes["identity"] = [sample_examples(identity, self.probe_cap, draws)]
        if self.ratio:
            # Their own draws, so that every ratio has the same graph and the same probes.
            draws = Draws(self.seed, "composition train")
            wanted = trained_count(self.ratio, len(atomic["id_atomic"]), len(pool))
            told["train_inferred"] = trained = inferred(pool[draws.choose(len(pool), wanted)], "train_inferred")
            probes["train_inferred"] = [sample_examples(trained, self.probe_cap, draws)]
        return {"train": (block for part in told.values() for block in chunks(part)), **probes}

    def _spoilt(self, entities: Numbers, share: float, what: str) -> Numbers:
        """The entities, a share of them replaced by any other one."""
        draws = Draws(self.seed, f"composition wrong {what}")
        is_wrong = draws.uniform(len(entities)) < share
        other = (entities + 1 + draws.below(self.num_entities - 1, len(entities))) % self.num_entities
        return np.where(is_wrong, other, entities)

    @functools.cached_property
    def _entity_tokens(self) -> Ids:
        """The tokens of each entity, (num_entities, 1 or 2)."""
        if not self.token_multiplicity:
            return np.arange(self.num_entities, dtype=np.int32)[:, None]
        pairs = Draws(self.seed, "composition names").choose(self._names**2, self.num_entities)
        return columns(pairs // self._names, self._names + pairs % self._names)

    def _facts(
        self,
        head: Numbers,
        relations: list[Numbers],
        tail: Numbers,
        kind: str,
        bridge: Numbers | None = None,
        said: Numbers | None = None,
    ) -> Examples:
        """Facts in tokens; `said` is the bridge as the answer of a composition says it. Without one the note is -1."""
        first_relation = 2 * self._names if self.token_multiplicity else self.num_entities
        mask, end = (
            np.full((len(head), 1), first_relation + self.num_relations + SPECIALS.index(word))
            for word in ("<mask>", "</a>")
        )
        prompts: list[npt.NDArray[Any]] = [self._entity_tokens[head]]
        prompts += [relation[:, None] + first_relation for relation in relations]
        answers = [self._entity_tokens[tail]]
        if self.one_position:
            prompts += [mask] * (2 - len(relations))
        else:
            answers.append(end)
        if self.bridge == "said" and len(relations) == 2:
            answers.insert(0, self._entity_tokens[said])
        notes = np.full(len(head), -1) if bridge is None else self._entity_tokens[bridge, -1]
        return Examples(
            np.concatenate(prompts, axis=1, dtype=np.int32),
            np.concatenate(answers, axis=1, dtype=np.int32),
            kind,
            {"bridge": notes.astype(np.int32)},
        )

    def _atomic(self, edges: Numbers, kind: str) -> Examples:
        """(h, r) -> t."""
        graph = self.graph
        return self._facts(edges // self.out_degree, [graph.relation[edges]], graph.tail[edges], kind)

    def _inferred(self, first: Numbers, second: Numbers, kind: str) -> Examples:
        """(h, r1, r2) -> t; the bridge is the entity between, by its last token."""
        graph = self.graph
        relations = [graph.relation[first], graph.relation[second]]
        bridge, tail = graph.tail[first], graph.tail[second]
        said = bridge
        if kind == "train_inferred":
            said, tail = (
                self._spoilt(said, self.wrong_bridges, "bridges"),
                self._spoilt(tail, self.wrong_tails, "tails"),
            )
        return self._facts(first // self.out_degree, relations, tail, kind, bridge, said)


ATOMIC = {"id_atomic": False, "ood_atomic": True}  # split -> whether its facts are OOD
