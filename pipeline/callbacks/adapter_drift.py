"""How far adapters have moved the model from its base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.callbacks.base import Callback


@dataclass
class AdapterDrift(Callback):
    """Logs `adapter_drift` at every evaluation: the norm of what the adapters add to their layers, over the base's.

    And `adapter_drift_kl`, the mean KL divergence, in nats, of the model's predictions at the answers of held-out rows
    from those with its adapters switched off. Logs nothing for a model without adapters.
    """

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        import torch
        from torch.nn import functional as F

        from pipeline.adapters import layers, merged, switched_off
        from pipeline.forward import stock_logits

        model = self.trainer.accelerator.unwrap_model(model)
        found = layers(model)
        if not found:
            return
        with torch.no_grad():
            weights = merged(model)
            bases = {name: layer.get_base_layer().weight for name, layer in found.items()}
            moved = sum(
                float((weights[f"{name}.weight"] - base).float().square().sum()) for name, base in bases.items()
            )
            whole = sum(float(base.float().square().sum()) for base in bases.values())
            split = self.trainer.held_out[0]
            rows = self.trainer.splits[split].sample(64, split)
            batch = rows.__getitems__(torch.arange(len(rows), device=args.device))
            was_training = model.training
            model.eval()
            now = F.log_softmax(stock_logits(model, batch).float(), -1)
            with switched_off(model):
                base = F.log_softmax(stock_logits(model, batch).float(), -1)
            model.train(was_training)
            kl = (now.exp() * (now - base)).sum(-1)[batch["labels"] >= 0].mean()
        self.trainer.log({"adapter_drift": (moved / whole) ** 0.5, "adapter_drift_kl": float(kl)})
