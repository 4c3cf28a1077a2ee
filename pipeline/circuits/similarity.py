"""How alike circuits are, from step to step and from run to run.

Tigges et al. 2024, "LLM Circuit Analyses Are Consistent Across Training and Scale" (arXiv 2407.10827), section 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.circuits._other_steps import comparisons
from pipeline.circuits.base import Overview
from pipeline.config.fields import param
from pipeline.plots.base import Drawing
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.plots.style import Mark


@dataclass(frozen=True)
class Similarity(Overview):
    """Jaccard similarity of a step's circuit with that before it, with the last, and with that of another run.

    A circuit is the share `top` of all edges with the highest |score|, and the nodes at their ends. `edges` and `nodes`
    are |A and B| / |A or B|; `weighted` is the sum of min(|s|, |s'|) over that of max(|s|, |s'|), of all edges, each
    step's scores divided by their sum. `change` is the running mean c <- alpha (1 - edges) + (1 - alpha) c, from 0, of
    the steps before. `edits` are the edges added and removed, `drift` the sum of |s - s'| over
    all edges, of the scores as they are.
    """

    top: float = param(0.05, "share of all edges that makes a circuit", gt=0, le=1)
    alpha: float = param(0.5, "weight of the newest step in the running mean", gt=0, le=1)

    source: ClassVar[str] = "attribution"

    def compare(self, tables: Mapping[int, pa.Table], others: Mapping[int, pa.Table] | None = None) -> pa.Table:
        import pyarrow as pa

        found, elsewhere = ({step: self.circuit(of[step]) for step in of} for of in (tables, others or {}))
        rows: list[dict[str, Any]] = []
        change = 0.0
        for compared, one, other in comparisons(found, elsewhere):
            like = alike(one, other)
            running = None
            if compared.to == "before":
                running = change = self.alpha * (1 - like["edges"]) + (1 - self.alpha) * change
            rows.append({**compared._asdict(), **like, "change": running})
        return pa.Table.from_pylist(rows)

    def circuit(self, table: pa.Table) -> Circuit:
        """The circuit of a table of `attribution`.

        Raises:
            ParameterError: when it has scores of nodes alone.
        """
        columns = (table[name].to_pylist() for name in ("writer", "reader", "score"))
        scores = {(writer, reader): score for writer, reader, score in zip(*columns) if reader}
        if not scores:
            raise ParameterError("source", "the tables of attribution have no edges; run it with level: edge")
        count = max(round(self.top * len(scores)), 1)
        edges = sorted(scores, key=lambda edge: (-abs(scores[edge]), edge))[:count]
        nodes = {w for w, _ in edges} | {r.partition("<")[0] for _, r in edges}
        return Circuit(set(edges), nodes, scores)

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.measures import draw_similarity

        return draw_similarity(table, marks)


@dataclass(frozen=True)
class Circuit:
    """Edges (writer, reader) and nodes by name, and the scores of all edges."""

    edges: set[tuple[str, str]]
    nodes: set[str]
    scores: Mapping[tuple[str, str], float]


def alike(one: Circuit, other: Circuit) -> dict[str, float]:
    """How alike two circuits are, of models of the same shape or of others; see `Similarity`."""
    every = sorted(one.scores.keys() | other.scores.keys())
    scores = np.array([[circuit.scores.get(edge, 0.0) for edge in every] for circuit in (one, other)])
    sizes = np.abs(scores)
    sizes = sizes / np.maximum(sizes.sum(axis=1, keepdims=True), 1e-300)
    return {
        "edges": len(one.edges & other.edges) / len(one.edges | other.edges),
        "nodes": len(one.nodes & other.nodes) / len(one.nodes | other.nodes),
        "edits": float(len(one.edges ^ other.edges)),
        "drift": float(np.abs(scores[0] - scores[1]).sum()),
        "weighted": float(sizes.min(axis=0).sum() / max(sizes.max(axis=0).sum(), 1e-300)),
    }
