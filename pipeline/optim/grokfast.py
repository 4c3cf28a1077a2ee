"""Grokfast: a slow average of the gradients is added to them (Lee et al. 2024, arXiv 2405.20233)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline.config.fields import param
from pipeline.optim.base import GradientTransform

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Grokfast(GradientTransform):
    """Adds `lamb` times an average of the gradients so far: exponential, or the mean of the last `window`.

    The mean is 0 until there are so many. Of it the state is how many there were, and for each gradient the last ones
    and, in float64 where the device has it, their sum.
    """

    average: Literal["ema", "ma"] = param("ema", "ema: exponential, of all gradients; ma: of the last window")
    alpha: float = param(0.98, "how slow the ema is: the share of it that stays at a step", ge=0, lt=1)
    lamb: float = param(2.0, "how often the average is added", gt=0)
    window: int = param(100, "gradients that ma averages; all are kept in memory", ge=1)

    priority: ClassVar[int] = 10
    _state: list[Any] = field(default_factory=list, init=False, repr=False)

    def __call__(self, gradients: list[Tensor], weights: Sequence[Tensor]) -> None:
        import torch

        averages = self._exponential(gradients) if self.average == "ema" else self._moving(gradients)
        torch._foreach_add_(gradients, averages, alpha=self.lamb)

    def state(self) -> list[Tensor]:
        return self._state

    def load(self, state: Sequence[Tensor]) -> None:
        self._state = list(state)

    def _exponential(self, new: list[Tensor]) -> list[Tensor]:
        import torch

        if not self._state:
            self._state = [tensor.clone() for tensor in new]
        else:
            torch._foreach_lerp_(self._state, new, 1 - self.alpha)
        return self._state

    def _moving(self, new: list[Tensor]) -> list[Tensor]:
        import torch

        from pipeline.kernels.devices import widest

        if not self._state:
            self._state = [torch.zeros(1, dtype=torch.int64, device=new[0].device)]
            for tensor in new:
                self._state.append(tensor.new_zeros(self.window, *tensor.shape))
                self._state.append(torch.zeros_like(tensor, dtype=widest(tensor.device)))
        count, pasts, sums = self._state[0], self._state[1::2], self._state[2::2]
        place = count % self.window
        for tensor, past, total in zip(new, pasts, sums):
            total.add_(tensor).sub_(past.index_select(0, place)[0])
            past.index_copy_(0, place, tensor[None])
        count.add_(1)
        share = (count >= self.window) / self.window
        return [(total * share).to(tensor.dtype) for tensor, total in zip(new, sums)]
