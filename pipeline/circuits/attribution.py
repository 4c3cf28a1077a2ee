"""How much each edge matters, estimated for all of them at once: edge attribution patching, with integrated gradients.

Syed et al. 2023 (arXiv 2310.10348); Hanna et al. 2024, "Have Faith in Faithfulness" (arXiv 2403.17806), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline.circuits._graph import Scores
from pipeline.circuits.base import Analysis, Columns, Pairs
from pipeline.config.fields import param
from pipeline.plots.base import Drawing

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from pipeline.circuits._batch import Batch
    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark


@dataclass(frozen=True)
class Attribution(Analysis):
    """The change of the metric to be expected where one edge alone is corrupted, for every edge and every node.

    An edge's score is the difference that corruption makes to what its writer writes, times the gradient with respect
    to what its reader reads, summed over positions: a mean over pairs. `eap` takes the gradient of the clean run,
    `clean-corrupted` the mean of those at both ends, `eap-ig` the mean over `ig_steps` inputs between them. A node's
    score is the sum of those of its outgoing edges, which is its own gradient times its own difference.
    """

    pairs: int = param(100, "most pairs of prompts", ge=1)
    method: Literal["eap", "eap-ig", "clean-corrupted"] = param("eap-ig", "eap, eap-ig or clean-corrupted")
    ig_steps: int = param(5, "inputs between corrupted and clean, for eap-ig", ge=1)
    endpoint: Literal["clean", "corrupted"] = param(
        "clean", "which end the inputs of eap-ig include: clean as in the paper, corrupted as in the authors' code"
    )
    metric: Literal["logit_diff", "prob_diff", "kl"] = param("logit_diff", "of the answer over the corrupted one's")
    level: Literal["edge", "node"] = param("edge", "rows of the table: every edge and node, or nodes alone")

    needs_float32: ClassVar[bool] = True
    needs_edges: ClassVar[bool] = True

    @property
    def weights(self) -> list[float]:
        """How far from corrupted, 0, to clean, 1, each input lies at which the gradient is taken."""
        if self.method == "eap":
            return [1.0]
        if self.method == "clean-corrupted":
            return [0.0, 1.0]
        return [(step + (self.endpoint == "clean")) / self.ig_steps for step in range(self.ig_steps)]

    def scores(self, hooks: Hooks, pairs: Pairs) -> Scores:
        """The scores of all edges, (U, V) as in `Graph`; zero where there is no edge."""
        import torch

        with torch.no_grad():  # but for the graph of each run, which `gradients` keeps
            return self._scores(hooks, pairs)

    def _scores(self, hooks: Hooks, pairs: Pairs) -> Scores:
        import torch

        from pipeline.circuits._batch import FLOATS, answer_logits, measure, on_device, split
        from pipeline.circuits._edge_patching import graph_of, reader_gradients, writers
        from pipeline.circuits._stream import check_edges

        batch, graph = on_device(hooks, pairs), graph_of(hooks)
        check_edges(hooks, batch.clean)
        total = torch.zeros(len(graph.writers), len(graph.readers), dtype=torch.float64)
        per_row = batch.clean.shape[1] * hooks.d_model * sum(total.shape)
        for part in split(batch, per_row, 2 * FLOATS):
            clean, away = writers(hooks, part.clean), writers(hooks, part.corrupted)
            start = clean[0].unflatten(0, part.clean.shape)
            away -= clean  # in place, since this is the largest tensor there is
            step = away[0].view_as(start)
            del clean
            slopes = away.new_zeros(len(graph.readers), *away.shape[1:])
            reference = answer_logits(hooks, part.clean, part) if self.metric == "kl" else None

            def metric(logits: Tensor, part: Batch = part, reference: Tensor | None = reference) -> Tensor:
                return measure(self.metric, logits, part, reference).sum()

            for weight in self.weights:
                between = None if weight == 1 else start + (1 - weight) * step
                reader_gradients(hooks, part, metric, between, slopes)
            # Readers of a block see the writers before it, so half of the products are not needed.
            for layer in range(graph.n_layer):
                heads = graph.heads(layer)
                for readers, seen in ((heads, graph.writers_before[layer]), (heads.stop, graph.mlp_sees(layer))):
                    product = away[:seen].flatten(1) @ slopes[readers].reshape(-1, away[0].numel()).T
                    total[:seen, readers] += product.cpu().double().squeeze(-1 if isinstance(readers, int) else ())
            total[:, -1] += (away.flatten(1) @ slopes[-1].flatten()).cpu().double()
        return (total / (len(batch) * len(self.weights))).numpy()

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        import numpy as np

        from pipeline.circuits._edge_patching import graph_of

        graph, scores = graph_of(hooks), self.scores(hooks, pairs)
        nodes = [""] * len(graph.writers)
        if self.level == "node":
            return {"writer": graph.writers, "reader": nodes, "score": scores.sum(axis=1)}
        from_, to = np.nonzero(graph.edges)
        return {
            "writer": [*graph.writers, *(graph.writers[i] for i in from_)],
            "reader": [*nodes, *(graph.readers[i] for i in to)],
            "score": np.concatenate([scores.sum(axis=1), scores[from_, to]]),
        }

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.circuit import draw_attribution

        return draw_attribution(table, marks)
