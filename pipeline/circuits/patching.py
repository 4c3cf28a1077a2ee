"""How much each node or edge matters, measured: everything is run again for each of them. The oracle of `attribution`.

Activation patching: Vig et al. 2020, Meng et al. 2022; of edges, path patching: Wang et al. 2022 (arXiv 2211.00593),
Goldowsky-Dill et al. 2023 (arXiv 2304.05969).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline.circuits.base import Analysis, Columns, Pairs
from pipeline.config.fields import param
from pipeline.plots.base import Drawing

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark


@dataclass(frozen=True)
class Patching(Analysis):
    """The change of the metric where one node, or one edge, alone is that of the corrupted run: a mean over pairs.

    Nodes are the input, every head and every MLP. Many patches go through the model as one batch; edges take as many
    forward passes as the model has edges all the same.
    """

    pairs: int = param(100, "most pairs of prompts", ge=1)
    metric: Literal["logit_diff", "prob_diff", "kl"] = param("logit_diff", "of the answer over the corrupted one's")
    level: Literal["node", "edge"] = param("node", "what is patched: nodes, or edges and nodes")

    needs_float32: ClassVar[bool] = True
    needs_edges: ClassVar[bool] = True

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        import numpy as np
        import torch

        from pipeline.circuits._batch import answer_logits, measure, on_device
        from pipeline.circuits._edge_patching import cut_metric, graph_of
        from pipeline.circuits._stream import check_edges

        batch, graph = on_device(hooks, pairs), graph_of(hooks)
        check_edges(hooks, batch.clean)
        # A cut as the edges from a writer: all of them, or one.
        cuts = [(writer, slice(None)) for writer in range(len(graph.writers))]
        ends = [(writer, "") for writer in graph.writers]
        if self.level == "edge":
            cuts += [(int(u), slice(int(v), int(v) + 1)) for u, v in np.argwhere(graph.edges)]
            ends += [(graph.writers[u], graph.readers[v]) for u, v in np.argwhere(graph.edges)]
        clean = answer_logits(hooks, batch.clean, batch)
        before = measure(self.metric, clean, batch, clean).cpu().double().mean()
        changes = []
        edges = torch.from_numpy(graph.edges).to(batch.clean.device)
        for start in range(0, len(cuts), 64):
            kept = edges.repeat(len(cuts[start : start + 64]), 1, 1)
            for circuit, (writer, readers) in zip(kept, cuts[start:]):
                circuit[writer, readers] = False
            after = cut_metric(hooks, batch, kept, self.metric, clean)
            changes += (after.cpu().double().mean(1) - before).tolist()
        return {"writer": [w for w, _ in ends], "reader": [r for _, r in ends], "score": changes}

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.circuit import draw_nodes

        return draw_nodes(table, "change of the metric where a node alone is that of the corrupted run", marks)
