"""Egalitarian gradient descent: equally fast in all directions (Saheb Pasand et al. 2025, arXiv 2510.04930)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.config.fields import param
from pipeline.optim.base import GradientTransform

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Egalitarian(GradientTransform):
    """Makes the singular values of each matrix's gradient equal, and keeps its norm.

    The authors' code does it to the first layer alone, and until test accuracy is 0.95, which no training may look at:
    here it is every matrix, at every step. Use it with an optimizer that does not scale each weight, as `optim: sgd`.
    """

    priority: ClassVar[int] = 30

    floor: float = param(1e-3, "share of the largest singular value below which one stays smaller", gt=0, lt=1)

    def __call__(self, gradients: list[Tensor], weights: Sequence[Tensor]) -> None:
        import torch

        for gradient in gradients:
            if gradient.ndim != 2:
                continue
            u, values, v = torch.linalg.svd(gradient.float(), full_matrices=False)
            norm = values.norm()
            # A direction that no row asks for has no singular value to speak of, and is not made one.
            scale = values / values.clamp(min=values[0] * self.floor + torch.finfo(values.dtype).tiny)
            scale *= norm / scale.norm().clamp(min=torch.finfo(values.dtype).tiny)
            gradient.copy_((u * scale) @ v)
