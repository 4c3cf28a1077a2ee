"""Similarity of circuits, worked out by hand."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.circuits.similarity import Circuit, Similarity, alike
from pipeline.utils.errors import ParameterError


def table(**scores: float) -> pa.Table:
    """Scores of edges named `writer__reader`."""
    rows = [{"writer": "m0", "reader": "", "score": 1.0}]
    rows += [dict(zip(("writer", "reader"), name.split("__")), score=score) for name, score in scores.items()]
    return pa.Table.from_pylist(rows)


def test_jaccard_similarities_are_those_of_the_definition() -> None:
    one = Circuit({("a", "b"), ("b", "c")}, {"a", "b", "c"}, {("a", "b"): 3.0, ("b", "c"): -1.0})
    other = Circuit({("a", "b"), ("a", "d")}, {"a", "b", "d"}, {("a", "b"): 1.0, ("a", "d"): 1.0})
    # Over their sums: 3/4 and 1/4 against 1/2 and 1/2.
    weighted = 0.5 / (0.75 + 0.25 + 0.5)
    # Scores move by |3 - 1|, |-1 - 0| and |0 - 1|; (b, c) goes and (a, d) comes.
    assert alike(one, other) == {"edges": 1 / 3, "nodes": 2 / 4, "weighted": weighted, "edits": 2, "drift": 4}
    assert alike(one, one) == {"edges": 1, "nodes": 1, "weighted": 1, "edits": 0, "drift": 0}


def test_steps_are_compared_with_the_one_before_the_last_and_another_run() -> None:
    tables = {
        0: table(input__m0=-4.0, m0__logits=1.0, input__logits=0.1),
        8: table(input__m0=0.1, m0__logits=5.0, input__logits=-2.0),
        9: table(input__m0=0.1, m0__logits=5.0, input__logits=3.0),
    }
    rows = Similarity(top=0.34).compare(tables, {7: tables[0]}).to_pylist()  # one edge of three
    found = {(row["step"], row["to"]): row for row in rows}
    assert found[8, "before"]["edges"] == 0 and found[9, "before"]["edges"] == 1
    assert found[8, "before"]["nodes"] == pytest.approx(1 / 3)  # input, m0 against m0, logits
    assert [found[step, "before"]["change"] for step in (8, 9)] == [0.5, 0.25]
    assert found[0, "last"]["edges"] == 0 and found[9, "last"]["weighted"] == pytest.approx(1)
    assert found[0, "other run"]["edges"] == 1 and found[9, "other run"]["to_step"] == 7
    assert (0, "before") not in found


def test_scores_of_nodes_alone_are_refused() -> None:
    with pytest.raises(ParameterError, match="have no edges"):
        Similarity().compare({0: table()})
