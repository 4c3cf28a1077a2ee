"""Intervals of edges and the stability of circuits, against a plain bootstrap and against pairs alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.circuits import _resampling
from pipeline.circuits._edge_patching import graph_of
from pipeline.circuits._resampling import intervals, room, shares
from pipeline.circuits.attribution import Attribution
from pipeline.circuits.faithfulness import Faithfulness
from pipeline.circuits.hooks import Hooks
from pipeline.circuits.similarity import Similarity
from pipeline.circuits.tables import add_step, read_one, write_table
from tests.circuits.small import KINDS, random_model, random_pairs
from tests.circuits.test_faithfulness import answered


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_pairs_are_those_of_each_pair_alone(kind: str) -> None:
    model, pairs = random_model(kind), random_pairs(n=5)
    hooks, analysis = Hooks(model), Attribution()
    together = analysis.of_pairs(hooks, pairs)
    graph = graph_of(hooks)
    for i in range(len(pairs)):
        alone = analysis.scores(hooks, pairs.take(slice(i, i + 1)))[graph.edges]
        np.testing.assert_allclose(together[i], alone, atol=2e-5)
    np.testing.assert_allclose(analysis.scores(hooks, pairs)[graph.edges], together.mean(0), atol=1e-6)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_intervals_are_those_of_means_over_drawn_rows() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 3)).astype(np.float32) * [1, 5, 0.1] + [0, 1, 0]
    low, high = intervals(values, 4000, 0)
    error = values.std(0) / 40**0.5
    np.testing.assert_allclose(low, values.mean(0) - 1.96 * error, atol=0.1 * error.max())
    np.testing.assert_allclose(high - low, 2 * 1.96 * error, rtol=0.08)
    drawn = shares(40, 7, 3)
    np.testing.assert_allclose(drawn.sum(1), 1)
    assert set(np.unique(np.round(drawn * 40, 9))) <= set(range(40)) and len({row.tobytes() for row in drawn}) == 7
    assert all(np.isnan(side).all() for side in (*intervals(values[:1], 10, 0), *intervals(values, 0, 0)))
    assert (
        intervals(values, 50, 0)[0].tolist()
        == intervals(values, 50, 0)[0].tolist()
        != intervals(values, 50, 1)[0].tolist()
    )


def test_a_table_has_intervals_of_edges_and_of_nodes() -> None:
    model, pairs = random_model("gpt2"), random_pairs(n=30)
    found = Attribution(draws=400).run(model, pairs).to_pylist()
    assert all(row["low"] < row["score"] < row["high"] for row in found if row["score"])
    hooks = Hooks(model)
    graph, edges = graph_of(hooks), Attribution().of_pairs(hooks, pairs)
    rows = {(row["writer"], row["reader"]): row for row in found}
    from_, to = np.nonzero(graph.edges)
    for writer in ("input", "a0.h2", "m1"):
        each = edges[:, from_ == graph.writers.index(writer)].sum(1).astype(np.float64)
        row, spread = rows[writer, ""], each.std() / len(pairs) ** 0.5
        assert row["score"] == pytest.approx(each.mean(), abs=1e-6)
        assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * spread, rel=0.2)
    one = rows["a0.h1", "m1"]
    each = edges[:, (from_ == graph.writers.index("a0.h1")) & (to == graph.readers.index("m1"))][:, 0]
    assert one["high"] - one["low"] == pytest.approx(2 * 1.96 * each.std() / len(pairs) ** 0.5, rel=0.2)
    nodes = Attribution(level="node", draws=400).run(model, pairs).to_pylist()
    assert nodes == [row for row in found if not row["reader"]]
    bare = Attribution(draws=0).run(model, pairs)
    assert bare["low"].null_count == len(bare) and bare["score"].to_pylist() == [row["score"] for row in found]


def test_many_scores_lie_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = random_model("neox-parallel"), random_pairs(n=6)
    inside = Attribution(draws=50).run(model, pairs)
    monkeypatch.setattr(_resampling, "HELD", 100)
    monkeypatch.setattr(_resampling, "AT_ONCE", 60)
    assert isinstance(room(6, 20), np.memmap) and not isinstance(room(6, 10), np.memmap)
    outside = Attribution(draws=50).run(model, pairs)
    for name in ("score", "low", "high"):
        np.testing.assert_allclose(outside[name], inside[name], atol=1e-12)


def test_stable_edges_are_those_of_nearly_all_redrawn_circuits() -> None:
    model, pairs = answered(n=40)
    analysis = Faithfulness(shares=(0.05, 0.2, 1.0), draws=60, target=0.5)
    rows = [row for row in analysis.run(model, pairs).to_pylist() if row["curve"] == "circuit"]
    hooks = Hooks(model)
    graph, edges = graph_of(hooks), analysis.of_pairs(hooks, pairs)

    def circuit(parts: Any, n: int) -> set[tuple[int, int]]:
        scores = np.zeros(graph.edges.shape)
        scores[graph.edges] = parts @ edges.astype(np.float64)
        return set(map(tuple, np.argwhere(graph.circuit(graph.greedy(scores), n))))

    for row in rows:
        own = circuit(np.full(len(pairs), 1 / len(pairs)), row["asked"])
        others = [circuit(part, row["asked"]) for part in shares(len(pairs), 60, 0)]
        stable = {edge for edge in own if sum(edge in other for other in others) >= 0.95 * 60}
        assert row["stable"] == len(stable) and row["edges"] == len(own)
        assert row["alike"] == pytest.approx(np.mean([len(own & other) / len(own | other) for other in others]))
    assert rows[-1]["alike"] == 1 and rows[-1]["stable"] == graph.edges.sum()
    assert 0 < rows[0]["alike"] < 1 and rows[1]["stable"] < rows[1]["edges"]
    smallest, stable = (set(rows[0][name].split()) for name in ("smallest_edges", "stable_edges"))
    assert len(smallest) == rows[0]["smallest"] and stable < smallest
    assert smallest <= {graph.name(u, v) for u, v in np.argwhere(graph.edges)}
    without = Faithfulness(shares=(0.2,), draws=0, target=0.5).run(model, pairs)
    assert without["stable"].null_count == len(without) and set(without["stable_edges"].to_pylist()) == {""}


def test_tables_of_earlier_code_are_still_read_and_drawn(tmp_path: Path) -> None:
    model, pairs = answered(n=20)
    tables = {}
    for step in (0, 8):
        new = add_step(Attribution().run(model, pairs), step)
        old = new.drop_columns(["low", "high"])
        write_table(tmp_path, f"step{step}.parquet", old, {"parameters": {"pairs": 20}})
        tables[step] = read_one(tmp_path / f"step{step}.parquet")
    assert len(Similarity().compare(tables)) == 3
    both = pa.concat_tables([tables[0], add_step(Attribution().run(model, pairs), 16)], promote_options="permissive")
    assert "Dashed" not in Attribution().draw(pa.concat_tables(tables.values()))["circuit"].caption
    assert "Dashed" in Attribution().draw(both)["circuit"].caption
    new = add_step(Faithfulness(shares=(0.2, 1.0)).run(model, pairs), 0)
    assert "drawn anew" in Faithfulness().draw(new)[""].caption
    old = new.drop_columns(["stable", "alike", "smallest_edges", "stable_edges"])
    assert "drawn anew" not in Faithfulness().draw(old)[""].caption
