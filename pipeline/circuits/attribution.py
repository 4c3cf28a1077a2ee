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
    from pipeline.circuits._resampling import Floats
    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark


@dataclass(frozen=True)
class Attribution(Analysis):
    """The change of the metric to be expected where one edge alone is corrupted, for every edge and every node.

    An edge's score is the difference that corruption makes to what its writer writes, times the gradient with respect
    to what its reader reads, summed over positions: a mean over pairs. `eap` takes the gradient of the clean run,
    `clean-corrupted` the mean of those at both ends, `eap-ig` the mean over `ig_steps` inputs between them. A node's
    score is the sum of those of its outgoing edges, which is its own gradient times its own difference. `low` and
    `high` are the central 95 % of a bootstrap over pairs, null with a single one: where 0 lies between them, other
    pairs may give the other sign (Méloux et al. 2025, arXiv 2510.00845, on how far circuits vary so).
    """

    pairs: int = param(100, "most pairs of prompts", ge=1)
    method: Literal["eap", "eap-ig", "clean-corrupted"] = param("eap-ig", "eap, eap-ig or clean-corrupted")
    ig_steps: int = param(5, "inputs between corrupted and clean, for eap-ig", ge=1)
    endpoint: Literal["clean", "corrupted"] = param(
        "clean", "which end the inputs of eap-ig include: clean as in the paper, corrupted as in the authors' code"
    )
    metric: Literal["logit_diff", "prob_diff", "kl"] = param("logit_diff", "of the answer over the corrupted one's")
    draws: int = param(1000, "of pairs, with replacement, for the intervals of scores; 0: none", ge=0)
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
        from pipeline.circuits._edge_patching import graph_of
        from pipeline.circuits._resampling import mean

        return graph_of(hooks).table(mean(self.of_pairs(hooks, pairs)))

    def of_pairs(self, hooks: Hooks, pairs: Pairs) -> Floats:
        """The scores of all edges on each pair, (n, E), in the order of `Graph.places`."""
        import torch

        with torch.no_grad():  # but for the graph of each run, which `gradients` keeps
            return self._of_pairs(hooks.ungrouped(), pairs)

    def _of_pairs(self, hooks: Hooks, pairs: Pairs) -> Floats:
        import torch

        from pipeline.circuits._batch import FLOATS, answer_logits, measure, on_device, split
        from pipeline.circuits._edge_patching import graph_of, reader_gradients, writers
        from pipeline.circuits._resampling import room
        from pipeline.circuits._stream import check_edges

        batch, graph = on_device(hooks, pairs), graph_of(hooks)
        check_edges(hooks, batch.clean)
        shape = (len(graph.writers), len(graph.readers))
        places = torch.from_numpy(graph.places).to(batch.clean.device)
        found, done = room(len(batch), len(places)), 0
        per_row = batch.clean.shape[1] * hooks.d_model * sum(shape)
        for part in split(batch, per_row, 2 * FLOATS):
            clean, away = writers(hooks, part.clean), writers(hooks, part.corrupted)
            start = clean[0].unflatten(0, part.clean.shape)
            away -= clean  # in place, since this is the largest tensor there is
            step = away[0].view_as(start)
            del clean
            slopes = away.new_zeros(shape[1], *away.shape[1:])
            reference = answer_logits(hooks, part.clean, part) if self.metric == "kl" else None

            def metric(logits: Tensor, part: Batch = part, reference: Tensor | None = reference) -> Tensor:
                return measure(self.metric, logits, part, reference).sum()

            for weight in self.weights:
                between = None if weight == 1 else start + (1 - weight) * step
                reader_gradients(hooks, part, metric, between, slopes)
            differences, gradients = (each.view(len(each), len(part), -1).transpose(0, 1) for each in (away, slopes))
            scores = away.new_zeros(len(part), *shape)
            # Readers of a block see the writers before it, so half of the products are not needed.
            for layer in range(graph.n_layer):
                heads = graph.heads(layer)
                mlp = slice(heads.stop, heads.stop + 1)
                for readers, seen in ((heads, graph.writers_before[layer]), (mlp, graph.mlp_sees(layer))):
                    scores[:, :seen, readers] = differences[:, :seen] @ gradients[:, readers].mT
            scores[:, :, -1:] = differences @ gradients[:, -1:].mT
            found[done : done + len(part)] = (scores.flatten(1)[:, places] / len(self.weights)).cpu().numpy()
            done += len(part)
        return found

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        import numpy as np

        from pipeline.circuits._edge_patching import graph_of
        from pipeline.circuits._resampling import intervals, mean

        graph, edges = graph_of(hooks), self.of_pairs(hooks, pairs)
        from_, to = np.nonzero(graph.edges)
        found = {"writer": graph.writers, "reader": [""] * len(graph.writers)}
        values = [np.add.reduceat(edges, np.searchsorted(from_, np.arange(len(graph.writers))), axis=1)]
        if self.level == "edge":
            found["writer"] = [*graph.writers, *(graph.writers[i] for i in from_)]
            found["reader"] += [graph.readers[i] for i in to]
            values.append(edges)
        low, high = zip(*(intervals(part, self.draws, self.seed) for part in values))
        score = np.concatenate([mean(part) for part in values])
        return {**found, "score": score, "low": np.concatenate(low), "high": np.concatenate(high)}

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.circuit import draw_attribution

        return draw_attribution(table, marks)
