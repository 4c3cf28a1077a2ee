"""The edges of a transformer, from what writes into the residual stream to what reads it, and circuits made of them.

Writers are the input (the state before the first block), every head, and every MLP. Readers are the query, key and
value of every head, every MLP, and the logits. A circuit is a set of edges; along all others flows what a corrupted run
writes.
As in Hanna et al. 2024, "Have Faith in Faithfulness" (arXiv 2403.17806), section 2.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Edges = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Graph:
    """Edges among U writers and V readers; tables of them are (U, V).

    In a block of parallel attention and MLP the MLP does not read the block's own heads.
    """

    n_layer: int
    n_head: int
    parallel: bool

    @property
    def writers_before(self) -> list[int]:
        """How many writers come before each block, and before the end."""
        return [1 + layer * (self.n_head + 1) for layer in range(self.n_layer + 1)]

    @cached_property
    def writers(self) -> list[str]:
        found = ["input"]
        for layer in range(self.n_layer):
            found += [*(f"a{layer}.h{head}" for head in range(self.n_head)), f"m{layer}"]
        return found

    @cached_property
    def readers(self) -> list[str]:
        found = []
        for layer in range(self.n_layer):
            found += [f"a{layer}.h{head}<{part}>" for part in "qkv" for head in range(self.n_head)] + [f"m{layer}"]
        return [*found, "logits"]

    def heads(self, layer: int) -> slice:
        """The readers that are a block's queries, keys and values; its MLP comes after them."""
        start = layer * (3 * self.n_head + 1)
        return slice(start, start + 3 * self.n_head)

    def mlp_sees(self, layer: int) -> int:
        return self.writers_before[layer] + (0 if self.parallel else self.n_head)

    @cached_property
    def edges(self) -> Edges:
        """Which edges there are, (U, V)."""
        found = np.zeros((len(self.writers), len(self.readers)), bool)
        for layer in range(self.n_layer):
            heads = self.heads(layer)
            found[: self.writers_before[layer], heads] = True
            found[: self.mlp_sees(layer), heads.stop] = True
        found[:, -1] = True
        return found

    @cached_property
    def places(self) -> npt.NDArray[np.int64]:
        """Where the edges stand in the flat table, (E,)."""
        return np.flatnonzero(self.edges)

    def table(self, scores: Scores) -> Scores:
        """Scores of edges (E,) as a table (U, V); zero where there is no edge."""
        found = np.zeros(self.edges.shape)
        found.ravel()[self.places] = scores
        return found

    @cached_property
    def owner(self) -> npt.NDArray[np.int64]:
        """The writer to which each reader belongs, (V,); -1 for the logits."""
        place = {name: i for i, name in enumerate(self.writers)}
        return np.array([place.get(name.partition("<")[0], -1) for name in self.readers])

    def name(self, writer: int, reader: int) -> str:
        return f"{self.writers[writer]}->{self.readers[reader]}"

    def names(self, circuit: Edges) -> str:
        """The edges of a circuit by name, separated by spaces."""
        return " ".join(self.name(int(writer), int(reader)) for writer, reader in np.argwhere(circuit))

    def nodes(self, circuit: Edges) -> Edges:
        """The writers that have an edge in a circuit, in or out, (U,)."""
        found: Edges = np.asarray(circuit.any(axis=1))
        readers = self.owner[circuit.any(axis=0)]
        found[readers[readers >= 0]] = True
        return found

    def prune(self, circuit: Edges) -> Edges:
        """The circuit without heads and MLPs that nothing enters or that nothing leaves, and without their edges."""
        circuit = circuit & self.edges
        while True:
            entered = np.zeros(len(self.writers), bool)
            entered[0] = True
            owners = self.owner[circuit.any(axis=0)]
            entered[owners[owners >= 0]] = True
            left = np.append(circuit.any(axis=1), True)  # the last for the logits, owner -1
            rest = circuit & entered[:, None] & left[self.owner][None, :]
            if (rest == circuit).all():
                return rest
            circuit = rest

    def top(self, scores: Scores) -> npt.NDArray[np.int64]:
        """All edges in falling order of |score|, as places in the flat table; the first n are the n highest."""
        return self.places[np.argsort(-np.abs(scores.ravel()[self.places]), kind="stable")]

    def greedy(self, scores: Scores) -> npt.NDArray[np.int64]:
        """Edges from the logits upwards, as places in the flat table: each time the highest |score| into what is in.

        The first n are the greedy circuit of n edges, whose nodes all have a way to the logits.
        """
        return np.fromiter(self._grow(np.abs(scores)), np.int64)

    def _grow(self, scores: Scores) -> Iterator[int]:
        width = len(self.readers)
        readers_of = {writer: np.flatnonzero(self.owner == writer) for writer in range(-1, len(self.writers))}
        seen, heap = {-1, 0}, list[tuple[float, int]]()

        def offer(owner: int) -> None:
            for reader in readers_of[owner]:
                for writer in np.flatnonzero(self.edges[:, reader]):
                    heapq.heappush(heap, (-scores[writer, reader], int(writer) * width + int(reader)))

        offer(-1)
        while heap:
            place = heapq.heappop(heap)[1]
            yield place
            if (writer := place // width) not in seen:
                seen.add(writer)
                offer(writer)

    def circuit(self, order: npt.NDArray[np.int64], n: int) -> Edges:
        """The first n edges of an order, pruned."""
        found = np.zeros(self.edges.size, bool)
        found[order[:n]] = True
        return self.prune(found.reshape(self.edges.shape))
