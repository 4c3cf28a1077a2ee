"""What each layer would answer: hidden states through the final norm and the output projection.

nostalgebraist 2020; with mean reciprocal ranks over training, as Wang et al. 2024 (arXiv 2405.15071), section 3.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.circuits.base import Analysis, Pairs, Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LogitLens(Analysis):
    """Mean reciprocal rank and probability of the answer, and of each token in the notes, by layer and position.

    Layer 0 are the embeddings, the last layer is the model's own output.
    """

    drawn: ClassVar[str] = "mrr"
    drawn_as: ClassVar[str] = "mean reciprocal rank of a token in the logits read off a layer's state at a position"

    def run(self, model: PreTrainedModel, pairs: Pairs) -> list[Row]:
        import torch

        wanted = {"answer": pairs.answers[:, 0], **pairs.notes}
        with torch.no_grad():
            tokens_BL = torch.from_numpy(pairs.clean).long().to(model.device)
            states = model(tokens_BL, output_hidden_states=True, use_cache=False).hidden_states
            norm, head = final_norm(model), model.get_output_embeddings()
            rows = []
            for layer, hidden_BLD in enumerate(states):
                # transformers hands out the last states with the final norm applied.
                logits_BLV = head(hidden_BLD if layer == len(states) - 1 else norm(hidden_BLD)).float()
                for name, target in wanted.items():
                    target_BL1 = (
                        torch.from_numpy(target).long().to(model.device)[:, None, None].expand(*tokens_BL.shape, 1)
                    )
                    value_BL1 = logits_BLV.gather(-1, target_BL1)
                    rank_BL = (logits_BLV > value_BL1).sum(-1)
                    mrr_L = (1 / (rank_BL + 1)).mean(0).tolist()
                    probability_L = (value_BL1.squeeze(-1) - logits_BLV.logsumexp(-1)).exp().mean(0).tolist()
                    rows += [
                        {"layer": layer, "position": position, "target": name, "mrr": mrr, "probability": probability}
                        for position, (mrr, probability) in enumerate(zip(mrr_L, probability_L))
                    ]
        return rows


def final_norm(model: PreTrainedModel) -> Any:
    """The norm before the output projection of GPT-2, GPT-NeoX and their variants.

    Raises:
        TypeError: for another architecture.
    """
    for name in ("ln_f", "final_layer_norm"):
        if hasattr(model.base_model, name):
            return getattr(model.base_model, name)
    raise TypeError(f"{type(model).__name__} has neither ln_f (GPT-2) nor final_layer_norm (GPT-NeoX)")
