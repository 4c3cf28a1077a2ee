"""The largest eigenvalue of the Hessian of the loss, by the method of Lanczos.

The power method would mix the largest eigenvalue with one below zero that is as large in size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.callbacks.base import Trainer

if TYPE_CHECKING:
    from pipeline.data.rows import Rows


def sharpness(trainer: Trainer, model: Any, rows: Rows, iterations: int, chunk: int) -> float:
    """The largest eigenvalue of the Hessian of the mean loss of rows, or what so many products find near it.

    Args:
        trainer: Whose objective says what the loss is.
        model: In eval mode, with whole weights; it stays as it is.
        rows: On its device.
        iterations: Products of the Hessian and a vector, which begins as the same random numbers every time.
        chunk: Rows whose product is in memory at once.
    """
    import torch
    from torch.func import functional_call
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from pipeline.callbacks._probe import weights_of
    from pipeline.data.labels import IGNORED
    from pipeline.kernels.forward import take

    names = list(weights_of(model))
    weights = [weight.requires_grad_() for weight in weights_of(model).values()]
    batches = [rows.__getitems__(part) for part in torch.arange(len(rows), device=weights[0].device).split(chunk)]
    targets = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)

    def times(vector: Sequence[Any]) -> list[Any]:
        """The Hessian times a vector."""
        sums = [torch.zeros_like(weight) for weight in weights]
        # Attention kernels have no second derivative; written out it has.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            for batch in batches:
                inputs = {"input_ids": batch["input_ids"], "use_cache": False}
                logits = take(functional_call(model, dict(zip(names, weights)), (), inputs).logits, batch["positions"])
                loss = trainer.recipe.objective.token_losses(logits, batch["labels"]).sum() / targets
                slopes = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
                along = torch.stack([(slope * part).sum() for slope, part in zip(slopes, vector)]).sum()
                for total, part in zip(sums, torch.autograd.grad(along, weights, materialize_grads=True)):
                    total += part
        return sums

    drawn = torch.Generator().manual_seed(0)
    vector = [torch.randn(weight.shape, generator=drawn).to(weight) for weight in weights]
    before = [torch.zeros_like(weight) for weight in weights]
    diagonal: list[float] = []
    beside = [_norm(vector)]  # the matrix in the basis of the vectors has these numbers beside its diagonal
    for _ in range(iterations):
        vector = [part / beside[-1] for part in vector]
        product = times(vector)
        diagonal.append(float(torch.stack([(one * part).sum() for one, part in zip(product, vector)]).sum()))
        off = beside[-1] if len(diagonal) > 1 else 0.0
        before, vector = vector, [p - diagonal[-1] * v - off * b for p, v, b in zip(product, vector, before)]
        beside.append(_norm(vector))
        if beside[-1] <= 1e-6 * beside[0]:  # the vectors span all that there is
            break
    between = torch.tensor(beside[1 : len(diagonal)])
    matrix = torch.tensor(diagonal).diag() + between.diag(1) + between.diag(-1)
    return float(torch.linalg.eigvalsh(matrix.cpu().double())[-1])


def _norm(parts: Sequence[Any]) -> float:
    import torch

    return float(torch.stack(torch._foreach_norm(list(parts))).norm())
