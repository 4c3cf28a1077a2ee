"""Are two graphs the same but for the names of their vertices? And how many rounds of refinement tell them apart.

The data of Hammond & Adam-Day 2024, "Neural Interactive Proofs" (arXiv 2412.08897), section 5, as text for a language
model: random graphs, half of the pairs isomorphic, most of the others hard for the test of Weisfeiler and Leman.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError

Graphs = npt.NDArray[np.int64]  # adjacency matrices, (N, n, n), of zeros and ones

KINDS = ("isomorphic", "rounds_1", "rounds_2", "rounds_more")
DENSITIES = (0.2, 0.4, 0.6, 0.8)
LEAST, POOL = 1000, 20_000  # random graphs of each density and size, among which pairs of each kind are looked for
SIGNS = ["0", "1", "|", "=", "yes", "no"]
VERTICES = "abcdefghij"


class GraphPairs(NamedTuple):
    """Pairs of graphs of one size, and the index of their kind, (N,)."""

    first: Graphs
    second: Graphs
    kind: Numbers

    def take(self, rows: Numbers | npt.NDArray[np.bool_]) -> GraphPairs:
        return GraphPairs(self.first[rows], self.second[rows], self.kind[rows])


@dataclass(frozen=True)
class GraphIsomorphism(Corpus):
    """Two graphs of one size, and whether they are isomorphic: yes or no.

    Half of the pairs are. A pair that is not is of kind `rounds_1` where the degrees differ, `rounds_2` where a second
    round of colour refinement is needed to tell it apart, and `rounds_more` where two do not do. Splits: `train`, `id`,
    the parts of `id` by kind, and `ood`, pairs of larger graphs.
    """

    min_vertices: int = param(6, "of the smallest graphs", ge=5, le=len(VERTICES))
    max_vertices: int = param(7, "of the largest graphs that are trained", ge=5, le=len(VERTICES) - 1)
    ood_vertices: int = param(8, "of the graphs of `ood`", ge=6, le=len(VERTICES))
    pairs: int = param(50_000, "pairs that are trained", ge=16)
    test_pairs: int = param(2000, "pairs of `id`, and of `ood`", ge=16)
    hard_share: float = param(
        0.7, "share of the pairs that are not isomorphic which take more than two rounds; of the rest one in three one",
        ge=0, lt=1,
    )  # fmt: skip
    notation: Literal["edges", "matrix"] = param(
        "edges",
        "a graph is the name of its last vertex and its edges, or its adjacency matrix above the diagonal",
    )
    seed: int = param(0, "of the graphs", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {"max_vertices": 6, "ood_vertices": 7, "pairs": 120, "test_pairs": 40}
    separator: ClassVar[str] = " "
    citation: ClassVar[str] = "Hammond & Adam-Day 2024, arXiv 2412.08897"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_vertices < self.min_vertices:
            raise ParameterError("max_vertices", f"{self.max_vertices} is less than min_vertices, {self.min_vertices}")
        if self.ood_vertices <= self.max_vertices:
            raise ParameterError(
                "ood_vertices", f"{self.ood_vertices} is not more than max_vertices, {self.max_vertices}"
            )

    @property
    def held_out(self) -> tuple[str, ...]:
        return ("id", "ood", *KINDS)

    def vocabulary(self) -> list[str]:
        return [*SIGNS, *VERTICES]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        sizes = range(self.min_vertices, self.max_vertices + 1)
        train, test = [], []
        for place, n in enumerate(sizes):
            # What does not divide by the number of sizes is of the first ones.
            wanted = [
                [len(range(place, count, len(sizes))) for count in self._counts(total)]
                for total in (self.pairs, self.test_pairs)
            ]
            found = self._draw(n, wanted)
            train.append(found[0])
            test.append(found[1])
        (larger,) = self._draw(self.ood_vertices, [self._counts(self.test_pairs)])
        kinds = {
            name: list(self._examples([part.take(part.kind == number) for part in test]))
            for number, name in enumerate(KINDS)
        }
        return {
            "train": self._examples(train),
            "id": self._examples(test),
            "ood": self._examples([larger]),
            **{name: blocks for name, blocks in kinds.items() if blocks},
        }

    def _counts(self, total: int) -> list[int]:
        """How many pairs of each kind there are among so many."""
        other = total // 2
        hard = round(self.hard_share * other)
        one = (other - hard) // 3
        return [total - other, one, other - hard - one, hard]

    def _draw(self, n: int, counts: list[list[int]]) -> list[GraphPairs]:
        """For each list of counts so many pairs of every kind, of graphs of n vertices, all of them different.

        Raises:
            ParameterError: when there are not so many.
        """
        pool = graphs(n, min(max(self.pairs, LEAST), POOL), Draws(self.seed, "graph pool", n))
        draws = Draws(self.seed, "graph pairs", n)
        found = told_apart(pool, draws)
        parts: list[list[GraphPairs]] = [[] for _ in counts]
        for kind in (1, 2, 3, 0):  # the last are made of graphs that stand in the others too
            total = sum(some[kind] for some in counts)
            more = total + total // 2 + 64
            if kind:
                places = found[kind - 1]
                if total and not len(places[0]):
                    raise ParameterError(
                        "hard_share", f"{self.hard_share:g}: no graphs of {n} vertices make {KINDS[kind]}"
                    )
                rows = draws.below(len(places[0]), more if total else 0)
                base = [pool[place[rows]] for place in places]
            else:
                seen = np.concatenate([part.first for some in parts for part in some])
                copies = seen[draws.below(len(seen), more // 2)], pool[draws.below(len(pool), more - more // 2)]
                base = [np.concatenate(copies)[draws.permutation(more)]] * 2
            first, second = (renamed(some, draws) for some in base)
            new = GraphPairs(first, second, np.full(len(first), kind))
            new = new.take(distinct(new))
            if len(new.kind) < total:
                raise ParameterError(
                    "pairs", f"{total:,} pairs of {n} vertices of kind {KINDS[kind]} are more than can be drawn"
                )
            cuts = np.cumsum([0, *(some[kind] for some in counts)])
            for part, start, stop in zip(parts, cuts, cuts[1:]):
                part.append(new.take(np.arange(start, stop)))
        return [GraphPairs(*(np.concatenate(column) for column in zip(*some))) for some in parts]

    def _examples(self, parts: list[GraphPairs]) -> Iterator[Examples]:
        """The pairs in blocks of one kind and length."""
        for pairs in parts:
            if not len(pairs.kind):
                continue
            edges = pairs.first.sum((1, 2)) // 2, pairs.second.sum((1, 2)) // 2
            lengths = edges[0] + edges[1] if self.notation == "edges" else np.zeros_like(edges[0])
            for kind, name in enumerate(KINDS):
                for length in np.unique(lengths[pairs.kind == kind]):
                    chosen = pairs.take((pairs.kind == kind) & (lengths == length))
                    answer = np.full((len(chosen.kind), 1), SIGNS.index("no" if kind else "yes"), np.int32)
                    yield Examples(self._prompts(chosen), answer, name)

    def _prompts(self, pairs: GraphPairs) -> npt.NDArray[np.int32]:
        above = np.triu_indices(pairs.first.shape[1], 1)
        bits = [graph[:, above[0], above[1]] for graph in (pairs.first, pairs.second)]
        rows = len(pairs.kind)
        bar, end = (np.full((rows, 1), SIGNS.index(sign)) for sign in "|=")
        if self.notation == "matrix":
            return np.concatenate([bits[0], bar, bits[1], end], axis=1, dtype=np.int32)
        # All edges of both graphs in order, where the bar counts as an edge; those that are there make the text.
        names = np.stack(above, 1) + len(SIGNS)
        width = 2 * len(names)
        words = np.concatenate([names.reshape(-1), [SIGNS.index("|")], names.reshape(-1), [SIGNS.index("=")]])
        shown = np.concatenate(
            [bits[0].repeat(2, axis=1), np.ones_like(bar), bits[1].repeat(2, axis=1), np.ones_like(end)], axis=1
        )
        edges = np.broadcast_to(words, (rows, 2 * width + 2))[shown == 1].reshape(rows, -1)
        last = np.full((rows, 1), len(SIGNS) + pairs.first.shape[1] - 1)
        return np.concatenate([last, edges], axis=1, dtype=np.int32)


def graphs(n: int, count: int, draws: Draws) -> Graphs:
    """So many random graphs of n vertices (Erdős & Rényi) of each density."""
    above = np.triu_indices(n, 1)
    bits = np.concatenate([draws.uniform(count, len(above[0])) < density for density in DENSITIES])
    found = np.zeros((len(bits), n, n), np.int64)
    found[:, above[0], above[1]] = bits
    return found + found.transpose(0, 2, 1)


def renamed(some: Graphs, draws: Draws) -> Graphs:
    """Each graph with its vertices in another order."""
    order = np.argsort(draws.uniform(*some.shape[:2]), axis=1, kind="stable")
    rows = np.arange(len(some))[:, None, None]
    return some[rows, order[:, :, None], order[:, None, :]]


def mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """64-bit numbers that look random, another for another number (the finalizer of splitmix64)."""
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(31))


def refined(some: Graphs) -> list[npt.NDArray[np.uint64]]:
    """For each number of rounds from none to n, a number for the colours of each graph (N,): equal for equal colours.

    In a round a vertex gets a colour by its own and those of its neighbours (Weisfeiler & Leman 1968).
    """
    colours = np.zeros(some.shape[:2], np.uint64)
    edges, found = some.astype(np.uint64), [np.zeros(len(some), np.uint64)]
    for _ in range(some.shape[1]):
        near = (edges @ mixed(colours)[:, :, None])[:, :, 0]
        colours = mixed(near ^ mixed(~colours))
        found.append(mixed(colours).sum(1, dtype=np.uint64))
    return found


def closed_walks(some: Graphs) -> npt.NDArray[np.uint64]:
    """A number for how many closed walks of each length a graph has (N,): equal for isomorphic graphs."""
    matrices = some.astype(np.float64)  # whole numbers below 2**53
    power, found = matrices, np.zeros(len(some), np.uint64)
    for _ in range(some.shape[1] - 1):
        power = power @ matrices
        found = mixed(found ^ power.trace(axis1=1, axis2=2).astype(np.uint64))
    return found


def told_apart(pool: Graphs, draws: Draws) -> list[tuple[Numbers, Numbers]]:
    """For the kinds after the first the places of pairs in a pool, two arrays each, that are not isomorphic.

    Those that neither refinement nor closed walks tell apart are left out, as nearly all of them are isomorphic.
    """
    none, one, two, *_, most = refined(pool)
    differs = [one, two, mixed(most) ^ closed_walks(pool)]
    found = []
    for same, other in zip([none, one, two], differs):
        # Each graph with a random one among those that are alike so far.
        order = draws.permutation(len(pool))
        order = order[np.argsort(same[order], kind="stable")]
        _, start, size = np.unique(same[order], return_index=True, return_counts=True)
        partner = order[np.repeat(start, size) + draws.below(np.repeat(size, size), len(pool))]
        apart = other[order] != other[partner]
        found.append((order[apart], partner[apart]))
    return found


def distinct(pairs: GraphPairs) -> Numbers:
    """The places of pairs of which no earlier one has the same two graphs, in whichever order."""
    n = pairs.first.shape[1]
    above = np.triu_indices(n, 1)
    powers = 2 ** np.arange(len(above[0]))
    codes = np.sort(np.stack([graph[:, above[0], above[1]] @ powers for graph in pairs[:2]], 1), axis=1)
    _, place = np.unique(codes, axis=0, return_index=True)
    return np.sort(place)
