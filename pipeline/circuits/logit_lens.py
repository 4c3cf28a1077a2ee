"""What each layer would answer: hidden states through the final norm and the output projection.

nostalgebraist 2020, "interpreting GPT: the logit lens"; with mean reciprocal ranks over training, as Wang et al. 2024
(arXiv 2405.15071), section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.circuits._splits import SPLIT, OverSplits, each_split
from pipeline.circuits.base import Columns, Pairs
from pipeline.plots.base import Drawing

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor
    from transformers import PreTrainedModel

    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

ITSELF = "the token itself"


@dataclass(frozen=True)
class LogitLens(OverSplits):
    """Mean rank, reciprocal rank and probability of tokens, by layer and position.

    The tokens are the answer, those in the notes, such as a bridge entity, and the token that stands at the position,
    such as the second relation at its own place. Rank 0 is the top. Layer 0 are the embeddings, the last layer is the
    model's own output. Of several splits each has its own rows, which the column `split` tells apart.
    """

    same_length: ClassVar[bool] = True

    def check(self, model: PreTrainedModel, pairs: Pairs) -> None:
        from pipeline.circuits._stream import check_model_output

        super().check(model, pairs)
        check_model_output(model, pairs)

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        return each_split(pairs, partial(self._measured, hooks))

    def _measured(self, hooks: Hooks, pairs: Pairs) -> dict[str, Any]:
        import numpy as np
        import torch

        from pipeline.circuits._batch import FLOATS, on_device
        from pipeline.circuits._parallel import over_threads, workers_of
        from pipeline.circuits._stream import check_output

        batch = on_device(hooks, pairs)
        check_output(hooks, batch.clean)
        positions, layers = batch.clean.shape[1], hooks.n_layer + 1
        targets = {"answer": batch.answer[:, None].expand(-1, positions)}
        for name, note in pairs.notes.items():
            targets[name] = torch.from_numpy(note).long().to(batch.clean.device)[:, None].expand(-1, positions)
        targets[ITSELF] = batch.clean
        wanted_BPK = torch.stack(list(targets.values()), -1)
        most = max(FLOATS // 4 // (layers * positions * hooks.d_model), 1)
        workers = workers_of(hooks, len(batch))
        count = -(-len(batch) // most) * workers
        parts = list(zip(batch.clean.tensor_split(count), wanted_BPK.tensor_split(count)))
        sums = torch.stack(over_threads(hooks, _sums, parts, workers)).sum(0)
        target, layer, position = (grid.ravel() for grid in np.indices((len(targets), layers, positions)))
        means = (sums / len(batch)).permute(0, 3, 1, 2).reshape(3, -1).numpy()
        return {
            "layer": layer, "position": position, "place": [pairs.places[i] for i in position],
            "target": [list(targets)[i] for i in target],
            "rank": means[0], "mrr": means[1], "probability": means[2],
        }  # fmt: skip

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.heatmap import drawn_grids, grids

        panel = "target"
        if SPLIT in table.column_names:
            panel = "target, split"
            names = [", ".join(pair) for pair in zip(table["target"].to_pylist(), table[SPLIT].to_pylist())]
            table = table.append_column(panel, [names])
        found = grids(table, "mrr", "layer", "position", panel, "place")
        what = "mean reciprocal rank of a token in the logits read off a layer's state at a position"
        return {"": drawn_grids(found, what, ("layer", "position"), marks)}


def _sums(hooks: Hooks, part: tuple[Tensor, Tensor]) -> Tensor:
    """Rank, reciprocal rank and probability (3, L + 1, P, K) of wanted tokens (B, P, K), summed over prompts (B, P)."""
    import torch

    from pipeline.circuits._batch import standing

    tokens, wanted_BPK = part
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(hooks.n_layer)]
    names.append(f"blocks.{hooks.n_layer - 1}.hook_resid_post")
    found: dict[str, Tensor] = {}
    base: Any = hooks.model.base_model
    with hooks.at({name: partial(found.__setitem__, name) for name in names}):
        base(input_ids=tokens, use_cache=False)
    normed_LBPD = torch.stack([hooks.final_norm(found[name]) for name in names])
    standings = standing(hooks, normed_LBPD.flatten(0, 2), wanted_BPK.flatten(0, 1).repeat(len(names), 1))
    ranks, chances = (side.view(len(names), *wanted_BPK.shape) for side in standings)
    return torch.stack([side.sum(1) for side in (ranks, 1 / (ranks + 1), chances)])
