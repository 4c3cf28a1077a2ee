"""Graphs of edges, and circuits chosen from scores."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.circuits._graph import Graph


def count(layers: int, heads: int, parallel: bool) -> int:
    """Edges worked out from what each reader sees."""
    total = 1 + layers * (heads + 1)
    for layer in range(layers):
        before = 1 + layer * (heads + 1)
        total += 3 * heads * before + before + (0 if parallel else heads)
    return total


def test_gpt2_has_as_many_nodes_and_edges_as_published() -> None:
    graph = Graph(12, 12, parallel=False)
    assert len(graph.writers) + 1 == 158 and graph.edges.sum() == 32_491


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("sizes", [(1, 1), (2, 3), (4, 2)])
def test_edges_go_from_what_is_before_to_what_is_after(sizes: tuple[int, int], parallel: bool) -> None:
    graph = Graph(*sizes, parallel)
    assert graph.edges.sum() == count(*sizes, parallel)
    named = {graph.name(int(u), int(v)) for u, v in np.argwhere(graph.edges)}
    assert "input->logits" in named and "m0->logits" in named and "input->a0.h0<k>" in named
    assert ("a0.h0->m0" in named) == (not parallel)
    assert not any(name.split("->")[0] == name.split("->")[1].split("<")[0] for name in named)
    assert "a0.h0->a0.h0<q>" not in named and "m0->m0" not in named


def named(graph: Graph, circuit: np.ndarray) -> set[str]:
    return {graph.name(int(u), int(v)) for u, v in np.argwhere(circuit)}


def scores_of(graph: Graph, values: dict[str, float]) -> np.ndarray:
    scores = np.zeros(graph.edges.shape)
    for u, v in np.argwhere(graph.edges):
        scores[u, v] = values.get(graph.name(int(u), int(v)), 0.001)
    return scores


def test_greedy_begins_at_the_logits_and_top_takes_the_highest() -> None:
    graph = Graph(2, 2, parallel=False)
    scores = scores_of(graph, {"input->a0.h0<q>": 9, "a0.h0->m1": -3, "m1->logits": 2, "m0->logits": 1})
    assert [graph.name(*divmod(int(p), len(graph.readers))) for p in graph.greedy(scores)[:4]] == [
        "m1->logits", "a0.h0->m1", "input->a0.h0<q>", "m0->logits",
    ]  # fmt: skip
    assert [graph.name(*divmod(int(p), len(graph.readers))) for p in graph.top(scores)[:3]] == [
        "input->a0.h0<q>", "a0.h0->m1", "m1->logits",
    ]  # fmt: skip
    for order in (graph.greedy(scores), graph.top(scores)):
        assert sorted(order) == np.flatnonzero(graph.edges).tolist()  # every edge once


def test_pruning_leaves_what_has_a_way_in_and_out() -> None:
    graph = Graph(2, 2, parallel=False)
    kept = ["input->a0.h0<v>", "a0.h0->m1", "m1->logits", "a0.h1->m0", "m0->a1.h0<q>", "input->m0"]
    circuit = np.zeros(graph.edges.shape, bool)
    for u, v in np.argwhere(graph.edges):
        circuit[u, v] = graph.name(int(u), int(v)) in kept
    assert named(graph, graph.prune(circuit)) == set(kept[:3])
    assert set(np.array(graph.writers)[graph.nodes(graph.prune(circuit))]) == {"input", "a0.h0", "m1"}
    assert graph.prune(graph.edges).sum() == graph.edges.sum()
    assert not graph.prune(np.zeros_like(circuit)).any()
