"""How unlike each other attention heads are (arXiv 2605.20441)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.callbacks._probe import batch_of, evaluated
from pipeline.callbacks.base import Callback
from pipeline.config.fields import param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class AttentionDiversity(Callback):
    """Logs `head_similarity` and `head_entropy_spread` at every evaluation, means over layers and training rows.

    The first is the mean cosine between the attention patterns of two heads of a layer, the second the standard
    deviation over its heads of the mean entropy of their rows, in nats.
    """

    rows: int = param(256, "most training rows", ge=1)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        import copy

        import torch

        batch = batch_of(self.trainer, self.rows, "attention diversity")
        with evaluated(self.trainer) as model, torch.no_grad():
            # Another model with the same weights: transformers leaves hooks in one that was asked what it attends to,
            # and then training would take another way.
            twin = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
            twin.base_model.set_attn_implementation("eager")  # other kinds do not say it
            output = twin(input_ids=batch["input_ids"], use_cache=False, output_attentions=True)
        found = torch.tensor([diversity(pattern_BHQK) for pattern_BHQK in output.attentions]).mean(0)
        self.trainer.log({"head_similarity": found[0].item(), "head_entropy_spread": found[1].item()})


def diversity(pattern_BHQK: Tensor) -> tuple[float, float]:
    """Similarity of the heads of a layer, 1 where there is one head; and the spread of their entropies."""
    import torch

    pattern_BHQK = pattern_BHQK.cpu().double()
    flat_BHX = torch.nn.functional.normalize(pattern_BHQK.flatten(2), dim=-1)
    heads = flat_BHX.shape[1]
    cosine_BHH = flat_BHX @ flat_BHX.mT
    others = (cosine_BHH.sum((1, 2)) - heads) / max(heads * (heads - 1), 1)
    entropy_H = torch.special.entr(pattern_BHQK).sum(-1).mean((0, 2))
    return others.mean().item() if heads > 1 else 1.0, entropy_H.std(unbiased=False).item()
