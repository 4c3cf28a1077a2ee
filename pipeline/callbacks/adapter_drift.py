"""How far adapters have moved the model from its base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.callbacks.base import Callback


@dataclass
class AdapterDrift(Callback):
    """Logs `adapter_drift` at every evaluation: the norm of all that was moved, over that of what it was before.

    That are the layers with adapters, and the embeddings of added words. Also `adapter_drift_kl`, the mean KL
    divergence, in nats, of the model's predictions at the answers of held-out rows from those with its adapters
    switched off and the embeddings as they began. Logs nothing for a model without adapters.
    """

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        import torch
        from torch.nn import functional as F

        from pipeline.kernels.forward import stock_logits
        from pipeline.models.adapters import layers, merged, switched_off
        from pipeline.models.added_rows import ROWS, owners

        model = self.trainer.accelerator.unwrap_model(model)
        found = layers(model)
        if not found:
            return
        with torch.no_grad():
            weights = merged(model)
            changes = [(layer.get_base_layer().weight, weights[f"{name}.weight"]) for name, layer in found.items()]
            for owner in owners(model).values():
                changes.append((owner.weight[owner.added_ids.start : owner.added_ids.stop], getattr(owner, ROWS)))
            moved = sum(float((now - base).float().square().sum()) for base, now in changes)
            whole = sum(float(base.float().square().sum()) for base, _ in changes)
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
