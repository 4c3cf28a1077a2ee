"""The orthogonal gradient: what of it only scales a weight is taken away (Prieto et al. 2025, arXiv 2501.04697)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.optim.base import GradientTransform

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-30  # keeps quotients of norms finite


@dataclass
class Orthogonal(GradientTransform):
    """Takes each gradient's part along its weights away, and keeps its norm.

    That part only scales the logits, which lowers the loss of what is fitted without changing what is predicted.
    """

    priority: ClassVar[int] = 20

    def __call__(self, gradients: list[Tensor], weights: Sequence[Tensor]) -> None:
        for g, w in zip(gradients, weights):
            norm = g.norm()
            g.sub_(w * ((w * g).sum() / ((w * w).sum() + TINY)))
            g.mul_(norm / (g.norm() + TINY))
