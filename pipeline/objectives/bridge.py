"""The bridge entity of a two-hop fact is trained too, at a middle layer where its first hop ends.

The answer stays the tail alone, and what the blocks after that layer start from is the bridge as they read any token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.config.fields import param
from pipeline.data.labels import IGNORED
from pipeline.objectives.next_token import NextToken
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from pipeline.corpora.store import StoredCorpus
    from pipeline.data.rows import Batch, Rows

NORMS = ("ln_f", "final_layer_norm", "norm")  # the final norm, as models of transformers call it


@dataclass(frozen=True)
class Bridge(NextToken):
    """next_token, and `weight` x the cross-entropy of the bridge in the logits read off a layer's state at one place.

    Rows whose corpus notes no bridge, such as single facts, have next_token alone; or with `facts` the first token of
    their answer in the place of a bridge, so that all facts are found by that layer.
    """

    layer: int | None = param(
        None, "blocks after which the bridge is read, each loop counted; null: half of those that run", ge=1
    )
    place: int = param(-2, "position in the prompt at which it is read; below 0: from its end, as r1 in h r1 r2")
    facts: bool = param(False, "rows that note no bridge: read their answer off that layer too, where the prompt ends")
    weight: float = param(1.0, "of its loss, beside 1 for each token of the answer", gt=0)

    asks: ClassVar[Mapping[str, Any] | None] = {"output_hidden_states": True}

    def rows(self, rows: Rows, stored: StoredCorpus, ids: Sequence[int] | None) -> Rows:
        import numpy as np
        import torch

        from pipeline.data.bridges import Bridged

        if ids is None:
            raise ParameterError(
                "objective.name", "bridge needs one token a word; write model.vocabulary: tokens, not text"
            )
        blocks = list(stored.blocks("train"))
        none = [np.full(len(block), -1) for block in blocks]
        bridge_N = np.concatenate([block.notes.get("bridge", empty) for block, empty in zip(blocks, none)])
        if not (bridge_N >= 0).any():
            raise ParameterError("objective.name", "bridge is for a corpus that notes bridges, such as composition")
        place_N = torch.full_like(rows.prompt_N, self.place) + (rows.prompt_N if self.place < 0 else 0)
        has_N = torch.from_numpy(bridge_N >= 0)
        if ((place_N < 0) | (place_N >= rows.prompt_N))[has_N].any():
            shortest = int(rows.prompt_N[has_N].min())
            raise ParameterError("objective.place", f"{self.place} is outside of prompts of {shortest} tokens")
        label_N = torch.from_numpy(np.where(bridge_N < 0, IGNORED, np.asarray(ids)[bridge_N]))
        if self.facts:
            first_N = rows.tokens_NT.gather(1, rows.prompt_N[:, None])[:, 0]
            label_N, place_N = torch.where(has_N, label_N, first_N), torch.where(has_N, place_N, rows.prompt_N - 1)
        trained = super().rows(rows, stored, ids)
        return Bridged(trained.tokens_NT, trained.prompt_N, trained.answer_N, label_N, place_N.clamp(min=0))

    def begin(self, model: PreTrainedModel, rows: Rows) -> Rows:
        from pipeline.data.bridges import Bridged

        if not isinstance(rows, Bridged):
            raise ParameterError("objective.name", "bridge trains the rows of the corpus alone; leave replay out")
        base: Any = model.base_model
        norm = next((getattr(base, name) for name in NORMS if hasattr(base, name)), None)
        if norm is None:
            raise ParameterError("objective.name", f"bridge knows no final norm of {type(model).__name__}")
        blocks = model.config.num_hidden_layers
        if (layer := self.layer or blocks // 2) >= blocks or not layer:
            raise ParameterError("objective.layer", f"{layer} is not a middle one of the {blocks} blocks that run")
        head = model.get_output_embeddings()
        return dataclasses.replace(rows, read=lambda state: head(norm(state)), layer=layer)

    def losses(self, logits_BAV: Tensor, batch: Batch, outputs: Any) -> Tensor:
        import torch
        from torch.nn import functional as F

        answer_BA = self.token_losses(logits_BAV, batch["labels"])
        rows_B = torch.arange(len(answer_BA), device=answer_BA.device)
        state_BD = outputs.hidden_states[batch["layer"]][rows_B, batch["place"]]
        logits_BV = batch["read"](state_BD).float()
        bridge_B = F.cross_entropy(logits_BV, batch["bridge"], ignore_index=IGNORED, reduction="none")
        return torch.cat([answer_BA[:, :1] + self.weight * bridge_B[:, None], answer_BA[:, 1:]], 1)
