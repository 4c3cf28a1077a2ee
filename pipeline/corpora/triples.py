"""A user's own facts, and the facts that follow from two of them: (h, r1, b) and (b, r2, t) give (h, r1, r2) -> t.

The task of Wang et al. 2024 (arXiv 2405.15071), section 3, on a knowledge graph from a file, whose ratio of inferred to
atomic facts is raised by adding facts, as Abramov et al. 2025 (arXiv 2504.20752) do for 2WikiMultiHopQA.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.config.fields import param
from pipeline.corpora._triple_files import Triple, TripleFile
from pipeline.corpora.base import PAD, SPECIALS, Corpus, Examples, chunks, columns, sample_examples, trained_count
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError
from pipeline.utils.paths import expanded
from pipeline.utils.shipped import RECIPES

RESERVED = r"<reserved_\d+>"  # what `Corpus.tokens` adds
EXAMPLE = "own_facts.csv"  # beside the recipes
MOST_CHAINS = 1 << 26  # pairs of facts that meet, and pairs of entity and relation among which facts are invented
ATOMIC = ("id_atomic", "ood_atomic", "invented_atomic")


class Facts(NamedTuple):
    """Facts as numbers of entities and relations, all (F,): those of the file first, then the invented ones."""

    head: Numbers
    relation: Numbers
    tail: Numbers
    kind: Numbers  # an index into ATOMIC


@dataclass(frozen=True)
class Triples(Corpus):
    """Facts of your own file, and compositions of two of them.

    A share `ood_fraction` of the file's facts never takes part in a trained composition. Splits: `train` (all facts,
    and compositions of the others), `id` (held-out compositions of those others), `ood` (compositions of two OOD
    facts), and the probes `train_inferred`, `id_atomic` and `ood_atomic`. `id`, `ood` and the atomic probes are of the
    file's facts alone.
    """

    path: str = param("", "a .csv, .tsv, .json or .jsonl file of head, relation, tail; empty: 200 facts of geography")
    several_tails: Literal["refuse", "first"] = param(
        "refuse", "what becomes of a head and relation that the file gives another tail: refused, or the first is kept"
    )
    invented: int = param(
        0,
        "facts added to raise the ratio: a head and relation that the file lacks, with some tail of the relation",
        ge=0,
    )
    ratio: float | None = param(None, "trained inferred facts per ID atomic fact; null: all that there are", gt=0)
    ood_fraction: float = param(0.1, "share of the file's facts that no trained composition uses", gt=0, lt=1)
    iid_fraction: float = param(0.2, "share of compositions of the file's ID facts held out as `id`", gt=0, lt=1)
    probe_cap: int = param(3000, "most examples in a split other than `train`", ge=1)
    bridge: Literal["silent", "said"] = param(
        "silent", "said: the answer of an inferred fact is its bridge entity and then its tail (b t, in place of t)"
    )
    seed: int = param(0, "of the invented facts and the splits", ge=0)

    citation: ClassVar[str] = "a user's file; the task of Wang et al. 2024, arXiv 2405.15071"

    @classmethod
    def tiny(cls, folder: Path = Path()) -> Triples:
        path = folder / "facts.csv"
        rows = [f"person {i},{name},person {(i * step + 1) % 12}" for i in range(12) for name, step in FAMILY.items()]
        path.write_text("\n".join(["head,relation,tail", *rows]), encoding="utf-8")
        return cls(path=str(path), ood_fraction=0.2)

    @property
    def _file(self) -> TripleFile:
        return TripleFile(expanded(self.path, "path") if self.path else RECIPES / EXAMPLE, "path")

    def check_here(self) -> None:
        _ = self._triples  # which reads the file, so that a mistake in it is one of the recipe

    def fingerprint(self) -> str:
        return hashlib.sha256(self._file.content()).hexdigest()

    @functools.cached_property
    def _triples(self) -> list[Triple]:
        return self._file.facts(self.several_tails)

    @functools.cached_property
    def entities(self) -> list[str]:
        """In the order of the file."""
        return list(dict.fromkeys(name for head, _, tail in self._triples for name in (head, tail)))

    @functools.cached_property
    def relations(self) -> list[str]:
        """In the order of the file."""
        return list(dict.fromkeys(relation for _, relation, _ in self._triples))

    def vocabulary(self) -> list[str]:
        """`<New_York>` for New York; a name that is taken, such as by a relation of the same name, gets a number."""
        tokens = dict.fromkeys([*SPECIALS, PAD])
        for name in (*self.entities, *self.relations):
            plain = "_".join(name.split())
            names = itertools.chain([f"<{plain}>"], (f"<{plain}_{number}>" for number in itertools.count(2)))
            tokens[next(token for token in names if token not in tokens and not re.fullmatch(RESERVED, token))] = None
        own = list(tokens)[len(SPECIALS) + 1 :]
        return [*own, *SPECIALS]

    def places(self, length: int) -> list[str]:
        return ["h", "r"] if length == 2 else ["h", "r1", "r2"] if length == 3 else super().places(length)

    @functools.cached_property
    def facts(self) -> Facts:
        entity = {name: i for i, name in enumerate(self.entities)}
        relation = {name: i for i, name in enumerate(self.relations)}
        rows = np.array([(entity[head], relation[name], entity[tail]) for head, name, tail in self._triples])
        kind = np.zeros(len(rows), np.int64)
        kind[self._ood(rows)] = ATOMIC.index("ood_atomic")
        invented = self._invented(rows)
        kind = np.append(kind, np.full(len(invented), ATOMIC.index("invented_atomic")))
        head, relation_of, tail = np.concatenate([rows, invented]).T
        return Facts(head, relation_of, tail, kind)

    def _ood(self, rows: Numbers) -> Numbers:
        """The OOD facts among those of the file (F, 3): those of random compositions, so that `ood` is not empty."""
        wanted = round(self.ood_fraction * len(rows))
        first, second = self._chains(rows[:, 0], rows[:, 2])
        apart = np.flatnonzero(first != second)
        if not len(apart):
            raise ParameterError(
                "path", "no tail of a fact in this file is the head of another; there is nothing to compose"
            )
        if not 2 <= wanted < len(rows):
            raise ParameterError(
                "ood_fraction", f"{self.ood_fraction:g} of {len(rows):,} facts makes {wanted:,} OOD; at least 2"
            )
        order = apart[Draws(self.seed, "triples ood").permutation(len(apart))]
        named = np.stack([first[order], second[order]], 1).reshape(-1)
        _, place = np.unique(named, return_index=True)
        chosen = named[np.sort(place)][:wanted]
        return chosen

    def _invented(self, rows: Numbers) -> Numbers:
        """Facts (N, 3) of heads and relations that the file lacks, with tails that the relation has in the file."""
        places = len(self.entities) * len(self.relations)
        if not self.invented:
            return np.empty((0, 3), np.int64)
        if self.invented > places - len(rows) or places > MOST_CHAINS:
            most = places - len(rows) if places <= MOST_CHAINS else 0
            raise ParameterError(
                "invented", f"{self.invented:,} is more than the {most:,} facts that can be invented for this file"
            )
        draws = Draws(self.seed, "triples invented")
        known = np.unique(rows[:, 0] * len(self.relations) + rows[:, 1])
        drawn = draws.choose(places, min(places, self.invented + len(rows)))
        drawn = drawn[~np.isin(drawn, known)][: self.invented]
        head, relation = np.divmod(drawn, len(self.relations))
        pairs = np.unique(rows[:, 1:], axis=0)  # each relation with each of its tails, in order
        start = np.searchsorted(pairs[:, 0], np.arange(len(self.relations) + 1))
        chosen = start[relation] + draws.below(np.diff(start)[relation], len(relation))
        return np.stack([head, relation, pairs[chosen, 1]], 1)

    def _chains(self, head: Numbers, tail: Numbers) -> tuple[Numbers, Numbers]:
        """All pairs of facts that meet, the tail of the first being the head of the second, as two arrays of places.

        Raises:
            ParameterError: when they are too many.
        """
        order = np.argsort(head, kind="stable")
        start, stop = (np.searchsorted(head[order], tail, side) for side in ("left", "right"))
        counts = stop - start
        if counts.sum() > MOST_CHAINS:
            raise ParameterError("path", f"{counts.sum():,} pairs of facts meet in this file; allowed: {MOST_CHAINS:,}")
        first = np.repeat(np.arange(len(head)), counts)
        within = np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
        return first, order[start[first] + within]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        facts = self.facts
        first, second = self._chains(facts.head, facts.tail)
        kinds = facts.kind[first], facts.kind[second]
        is_ood = [kind == ATOMIC.index("ood_atomic") for kind in kinds]
        of_file = (kinds[0] == 0) & (kinds[1] == 0)
        draws = Draws(self.seed, "triples splits")
        is_iid = of_file & (draws.uniform(len(first)) < self.iid_fraction)
        iid, ood = np.flatnonzero(is_iid), np.flatnonzero(is_ood[0] & is_ood[1])
        pool = np.flatnonzero(~is_iid & ~is_ood[0] & ~is_ood[1])
        for name, rows in {"iid_fraction": iid, "ood_fraction": ood}.items():
            if not len(rows) or not len(pool):
                raise ParameterError(
                    name, f"leaves {'a held-out split' if len(pool) else 'train'} without a composition"
                )

        def inferred(rows: Numbers, kind: str) -> Examples:
            return self._inferred(first[rows], second[rows], kind)

        atomic = [self._atomic(np.flatnonzero(facts.kind == number), name) for number, name in enumerate(ATOMIC)]
        held_out = {"id": inferred(iid, "test_inferred_iid"), "ood": inferred(ood, "test_inferred_ood")}
        probes = {**held_out, "id_atomic": atomic[0], "ood_atomic": atomic[1]}
        sampled = {name: [sample_examples(part, self.probe_cap, draws)] for name, part in probes.items()}
        draws = Draws(self.seed, "triples train")  # their own, so that every ratio has the same probes
        ids = int((facts.kind != ATOMIC.index("ood_atomic")).sum())
        wanted = len(pool) if self.ratio is None else trained_count(self.ratio, ids, len(pool))
        trained = inferred(pool[draws.choose(len(pool), wanted)], "train_inferred")
        return {
            "train": (block for part in (*atomic, trained) for block in chunks(part)),
            **sampled,
            "train_inferred": [sample_examples(trained, self.probe_cap, draws)],
        }

    def _atomic(self, rows: Numbers, kind: str) -> Examples:
        facts, relation = self.facts, self.facts.relation + len(self.entities)
        return Examples(
            columns(facts.head[rows], relation[rows]),
            columns(facts.tail[rows], self._end),
            kind,
            {"bridge": np.full(len(rows), -1, np.int32)},
        )

    def _inferred(self, first: Numbers, second: Numbers, kind: str) -> Examples:
        facts, relation = self.facts, self.facts.relation + len(self.entities)
        bridge: npt.NDArray[Any] = facts.tail[first]
        said = [bridge] * (self.bridge == "said")
        return Examples(
            columns(facts.head[first], relation[first], relation[second]),
            columns(*said, facts.tail[second], self._end),
            kind,
            {"bridge": bridge.astype(np.int32)},
        )

    @property
    def _end(self) -> int:
        return len(self.entities) + len(self.relations) + SPECIALS.index("</a>")


FAMILY = {"parent": 5, "friend": 7}  # relations of the tiny file: how far their tails lie apart
