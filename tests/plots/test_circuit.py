"""The graph of a circuit that moves: scores of every step on edges that keep their places."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pytest

from pipeline.plots.circuit import circuit_frames, draw_attribution
from pipeline.report.player import graph

EDGES = {
    0: {("input", "a0.h0<v>"): 0.1, ("a0.h0", "logits"): -0.2, ("input", "m0"): 0.0, ("m0", "logits"): 0.0},
    8: {("input", "a0.h0<v>"): 1.0, ("a0.h0", "logits"): -4.0, ("input", "m0"): 2.0, ("m0", "logits"): -1.0},
}


def table(steps: dict[int, dict[tuple[str, str], float]] = EDGES) -> pa.Table:
    rows = [
        {"step": step, "writer": writer, "reader": reader, "score": score}
        for step, edges in steps.items()
        for (writer, reader), score in [*edges.items(), (("a0.h0", ""), 1.0), (("m0", ""), 0.5)]
    ]
    return pa.Table.from_pylist(rows)


def test_every_step_has_its_scores_over_the_largest_of_all() -> None:
    frames = circuit_frames(table())
    assert frames and list(frames.steps) == [0, 8]
    ends = [(writer, reader) for writer, reader, _ in frames.edges]
    assert sorted(ends) == sorted(EDGES[8])
    for step, scores in zip(frames.steps, frames.scores):
        assert dict(zip(ends, scores)) == pytest.approx({edge: score / 4 for edge, score in EDGES[step].items()})
    heights = {name: y for name, _, y in frames.nodes}
    assert heights["logits"] < heights["m0"] < heights["a0.h0"] < heights["input"] < frames.size[1]
    assert all(0 < x < frames.size[0] for _, x, _ in frames.nodes)
    drawn = draw_attribution(table())["circuit"]
    assert drawn.frames == frames and "`input` to `m0`" in drawn.finding


def test_one_step_does_not_move() -> None:
    assert circuit_frames(table({8: EDGES[8]})) is None
    assert draw_attribution(table({8: EDGES[8]}))["circuit"].frames is None


def test_the_page_has_every_edge_and_node_and_begins_with_the_last_step() -> None:
    frames = circuit_frames(table())
    assert frames
    page = graph(frames)
    data = json.loads(re.findall(r'json">(.*?)</script>', page)[0])
    places = re.findall(r'data-at="(.*?)"', page)
    assert data["steps"] == [0, 8] and places == [
        f"{w} to {r}".replace("<", "&lt;").replace(">", "&gt;") for w, r, _ in frames.edges
    ]
    assert dict(zip(places, data["scores"][1]))["a0.h0 to logits"] == -100
    assert 'value="1"' in page and page.count('class="node"') == 4 and "http" not in page
