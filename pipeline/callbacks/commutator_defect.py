"""How much it matters in which order two batches are trained, which rises before generalization (arXiv 2602.16746)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.callbacks._probe import batch_of, evaluated, gradients_at, weights_of
from pipeline.callbacks.base import Callback
from pipeline.config.fields import param

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class CommutatorDefect(Callback):
    """Logs `commutator_defect` at every evaluation: the median over pairs of batches A and B of training rows.

    It is |w_AB - w_BA| / (|step g_A| |step g_B|), where w_AB are the weights after a step of gradient descent on A and
    then one on B. The pairs are the same at every evaluation, and cost four gradients each. Engines must not shard the
    weights.
    """

    pairs: int = param(9, "of batches", ge=1)
    rows: int = param(512, "most rows of a batch, of at most half of the training rows", ge=1)
    step: float = param(1e-3, "learning rate of the two steps", gt=0)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        import statistics

        self.trainer.log({"commutator_defect": statistics.median(map(self._defect, range(self.pairs)))})

    def _defect(self, pair: int) -> float:
        """The defect of a pair of batches, from differences of gradients, as those of weights are lost in rounding."""
        # At most half of the rows, as all of them would be the same batch twice.
        most = min(self.rows, max(len(self.trainer.splits["train"]) // 2, 1))
        first, second = (batch_of(self.trainer, most, f"commutator {pair} {side}") for side in "AB")
        with evaluated(self.trainer) as model:
            weights, gradient = weights_of(model), gradients_at(self.trainer, model)
            (_, g_a), (_, g_b) = gradient(weights, first), gradient(weights, second)
            # What each batch's gradient gains by the step that the other one makes first.
            _, b_after = gradient({name: w - self.step * g_a[name] for name, w in weights.items()}, second)
            _, a_after = gradient({name: w - self.step * g_b[name] for name, w in weights.items()}, first)
        turned = norm((b_after[name] - g_b[name]) - (a_after[name] - g_a[name]) for name in weights)
        return turned / (self.step * norm(g_a.values()) * norm(g_b.values()) + 1e-30)


def norm(tensors: Iterable[Tensor]) -> float:
    """The L2 norm of all values together."""
    import torch

    return torch.stack([tensor.cpu().double().norm() for tensor in tensors]).norm().item()
