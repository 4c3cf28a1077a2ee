"""What callbacks share that measure the model on fixed rows of `train`, without changing it or what comes after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.callbacks.base import Trainer

if TYPE_CHECKING:
    from torch import Tensor

Weights = dict[str, "Tensor"]
Gradient = Callable[[Mapping[str, "Tensor"], Any], "tuple[Tensor, Weights]"]


def batch_of(trainer: Trainer, most: int, purpose: str) -> Any:
    """At most so many training rows as a batch, the same ones every time; other purposes draw others."""
    import torch

    rows = trainer.splits["train"].sample(most, "train", purpose)
    return rows.__getitems__(torch.arange(len(rows), device=trainer.args.device))


@contextmanager
def evaluated(trainer: Trainer) -> Iterator[Any]:
    """The model without dropout, and without what wraps it."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    was_training = model.training
    model.eval()
    try:
        yield model
    finally:
        model.train(was_training)


def weights_of(model: Any) -> Weights:
    """The trained weights by name, apart from the graph of any training step."""
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def gradients_at(trainer: Trainer, model: Any) -> Gradient:
    """A function of weights and a batch: the objective's mean loss there, and its gradient; the model stays."""
    import torch
    from torch.func import functional_call

    from pipeline.data.labels import IGNORED
    from pipeline.kernels.forward import take

    def found(weights: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, Weights]:
        with torch.enable_grad():
            own = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
            output = functional_call(model, own, (), {"input_ids": batch["input_ids"], "use_cache": False})
            logits = take(output.logits, batch["positions"])
            total = trainer.recipe.objective.token_losses(logits, batch["labels"]).sum()
            loss = total / (batch["labels"] != IGNORED).sum()
            gradients = torch.autograd.grad(loss, list(own.values()))
        return loss.detach(), dict(zip(own, gradients))

    return found
