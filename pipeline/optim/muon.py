"""Muon: the momentum of each matrix, made orthogonal, is its step (Jordan et al. 2024; torch.optim.Muon)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.config.fields import param
from pipeline.optim.base import Optimizer
from pipeline.optim.together import together

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments


@dataclass(frozen=True)
class Muon(Optimizer):
    """Muon for the matrices of the blocks; for embeddings, the head, norms and biases the optimizer of `optim`.

    Steps are scaled to the size of AdamW's (`match_rms_adamw`), so that both take the same learning rate.
    """

    learning_rate: float | None = param(None, "of the matrices; null: learning_rate", gt=0)
    weight_decay: float | None = param(None, "of the matrices; null: weight_decay", ge=0)
    momentum: float = param(0.95, "share of the momentum that stays at a step", ge=0, lt=1)
    nesterov: bool = param(True, "look ahead along the momentum")
    ns_steps: int = param(5, "Newton-Schulz iterations that make it orthogonal", ge=1, le=99)

    def create(
        self, weights: Mapping[str, nn.Parameter], decayed: set[str], model: nn.Module, args: TrainingArguments
    ) -> torch.optim.Optimizer:
        import torch
        from transformers import Trainer

        from pipeline.optim.decay import embeddings

        head: Any = getattr(model, "get_output_embeddings", lambda: None)()
        outside = embeddings(model) | {id(weight) for weight in (head.parameters() if head is not None else ())}
        matrices = {name: w for name, w in weights.items() if w.ndim == 2 and id(w) not in outside}
        rest = {name: w for name, w in weights.items() if name not in matrices}
        rate = args.learning_rate if self.learning_rate is None else self.learning_rate
        decay = args.weight_decay if self.weight_decay is None else self.weight_decay
        shared: dict[str, Any] = {
            "lr": rate, "momentum": self.momentum, "nesterov": self.nesterov, "ns_steps": self.ns_steps,
            "adjust_lr_fn": "match_rms_adamw",
        }  # fmt: skip
        kind, facts = Trainer.get_optimizer_cls_and_kwargs(args)
        parts: list[torch.optim.Optimizer] = []
        if groups := _groups(matrices, decayed, decay):
            parts.append(torch.optim.Muon(groups, **shared))
        if groups := _groups(rest, decayed, args.weight_decay):
            parts.append(kind(groups, **facts))
        return together(parts)


def _groups(weights: Mapping[str, nn.Parameter], decayed: set[str], decay: float) -> list[dict[str, Any]]:
    """Parameter groups with and without weight decay; those without weights are left out."""
    groups = [
        {"params": [w for name, w in weights.items() if name in decayed], "weight_decay": decay},
        {"params": [w for name, w in weights.items() if name not in decayed], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
