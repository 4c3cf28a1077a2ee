"""The norm of the weights, whose slow fall under weight decay goes with grokking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.callbacks.base import Callback
from pipeline.config.fields import param


@dataclass
class WeightNorm(Callback):
    """Logs `weight_norm`, the L2 norm of all trained weights, at every evaluation."""

    always: ClassVar[bool] = True
    priority: ClassVar[int] = 20

    per_parameter: bool = param(False, "also log weight_norm/<name> for every parameter")

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        import torch

        weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        norms = torch.stack(torch._foreach_norm([weight.detach().float() for weight in weights.values()]))
        logs = {"weight_norm": norms.norm().item()}
        if self.per_parameter:
            logs |= {f"weight_norm/{name}": norm for name, norm in zip(weights, norms.tolist())}
        self.trainer.log(logs)
