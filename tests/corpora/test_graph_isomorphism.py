"""Pairs of graphs, judged by networkx, and by a refinement of colours that is written out here."""

from __future__ import annotations

from collections import Counter, defaultdict

import networkx as nx
import pytest

from pipeline.corpora.graph_isomorphism import GraphIsomorphism
from pipeline.corpora.store import build
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import facts

Words = tuple[str, ...]


def graph_of(words: Words, notation: str) -> nx.Graph:
    graph = nx.Graph()
    if notation == "edges":
        assert [*zip(words[::2], words[1::2])] == sorted(set(zip(words[::2], words[1::2])))
        graph.add_edges_from(zip(words[::2], words[1::2]))
    else:
        n = next(n for n in range(20) if n * (n - 1) // 2 == len(words))
        graph.add_nodes_from(range(n))
        places = [(i, j) for i in range(n) for j in range(i + 1, n)]
        graph.add_edges_from(place for place, word in zip(places, words) if word == "1")
    return graph


def rounds_of(first: nx.Graph, second: nx.Graph) -> int | None:
    """After how many rounds of refinement the colours of two graphs differ; None where they never do."""
    colours = {(side, node): "" for side, graph in enumerate((first, second)) for node in graph}
    for number in range(1, len(first) + 2):
        colours = {
            (side, node): repr((colours[side, node], sorted(colours[side, other] for other in graph[node])))
            for side, graph in enumerate((first, second))
            for node in graph
        }
        short = {colour: str(i) for i, colour in enumerate(sorted(set(colours.values())))}
        colours = {key: short[colour] for key, colour in colours.items()}
        counts = [Counter(colours[side, node] for node in graph) for side, graph in enumerate((first, second))]
        if counts[0] != counts[1]:
            return number
    return None


@pytest.mark.parametrize(("notation", "seed"), [("matrix", 0), ("edges", 1)])
def test_answers_and_kinds_are_those_of_networkx_and_of_refinement(notation: str, seed: int) -> None:
    corpus = GraphIsomorphism(pairs=400, test_pairs=100, notation=notation, seed=seed)
    stored = build(corpus)
    seen: dict[str, set[frozenset[Words]]] = defaultdict(set)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    hard = Counter[bool]()
    for split in stored.sizes:
        for fact in facts(stored, split):
            assert fact.prompt[-1] == "=" and fact.prompt.count("|") == 1
            bar, start = fact.prompt.index("|"), int(notation == "edges")
            sides = fact.prompt[start:bar], fact.prompt[bar + 1 : -1]
            first, second = (graph_of(side, notation) for side in sides)
            if notation == "edges":  # vertices without an edge are not written
                most = "abcdefghij".index(fact.prompt[0]) + 1
                assert most in ([8] if split == "ood" else [6, 7])
                assert set(first) | set(second) <= set("abcdefghij"[:most])
                for graph in (first, second):
                    graph.add_nodes_from("abcdefghij"[:most])
            else:
                assert len(first) == len(second) and (len(first) == 8) == (split == "ood")
            assert fact.answer == ("yes" if nx.is_isomorphic(first, second) else "no",)
            rounds = rounds_of(first, second)
            kind = {1: "rounds_1", 2: "rounds_2"}.get(rounds or 3, "rounds_more")
            assert fact.type == ("isomorphic" if fact.answer == ("yes",) else kind)
            if fact.type == "rounds_more":
                hard[rounds is None] += 1
            seen[split].add(frozenset(sides))
            counts[split][fact.type] += 1
    assert not seen["train"] & (seen["id"] | seen["ood"])
    assert counts["train"] == {"isomorphic": 200, "rounds_1": 20, "rounds_2": 40, "rounds_more": 140}
    assert counts["id"] == {"isomorphic": 50, "rounds_1": 5, "rounds_2": 10, "rounds_more": 35}
    for kind, count in counts["id"].items():
        assert counts[kind] == {kind: count} and seen[kind] <= seen["id"]
    assert hard[True] and hard[False]  # by closed walks alone, and by a third round


def test_half_of_the_isomorphic_graphs_are_in_other_pairs_too() -> None:
    stored = build(GraphIsomorphism(min_vertices=7, pairs=400, test_pairs=100, notation="matrix"))
    kinds = defaultdict(list)
    for fact in facts(stored, "train"):
        kinds[fact.type].append(graph_of(fact.prompt[: fact.prompt.index("|")], "matrix"))
    others = defaultdict(list)
    for kind in ("rounds_1", "rounds_2", "rounds_more"):
        for graph in kinds[kind]:
            others[nx.weisfeiler_lehman_graph_hash(graph)].append(graph)
    found = sum(
        any(nx.is_isomorphic(graph, other) for other in others[nx.weisfeiler_lehman_graph_hash(graph)])
        for graph in kinds["isomorphic"]
    )
    assert found >= 0.5 * len(kinds["isomorphic"]) - 20


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"max_vertices": 5}, "max_vertices"),
        ({"ood_vertices": 7}, "ood_vertices"),
        ({"min_vertices": 5}, "hard_share"),
        ({"min_vertices": 5, "max_vertices": 5, "hard_share": 0.0, "pairs": 10**6}, "pairs"),
        ({"ood_vertices": 11}, "ood_vertices"),
    ],
)
def test_what_cannot_be_drawn_is_named(parameters: dict[str, float], key: str) -> None:
    with pytest.raises(ParameterError) as error:
        list(GraphIsomorphism(**parameters).splits()["train"])
    assert error.value.key == key and "\n" not in str(error.value)
