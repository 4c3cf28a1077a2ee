"""Rows that know their bridge entity, and where in the prompt it is read.

Tensor names carry their shape: N rows of a split, B rows of a batch, D the width of states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline.data.buckets import Shape
from pipeline.data.rows import Batch, Rows


@dataclass(frozen=True)
class Bridged(Rows):
    """Rows with the token of their bridge, IGNORED where there is none, and the position that it is read at, (N,) each.

    `read` gives the logits of states (B, D), and `layer` says after how many blocks they are.
    """

    bridge_N: torch.Tensor
    place_N: torch.Tensor
    read: Callable[[torch.Tensor], torch.Tensor] | None = None
    layer: int = 0

    def to(self, device: torch.device) -> Bridged:
        moved = super().to(device)
        tensors = (moved.tokens_NT, moved.prompt_N, moved.answer_N, self.bridge_N.to(device), self.place_N.to(device))
        return Bridged(*tensors, self.read, self.layer)

    def _batch(self, index_B: torch.Tensor, shape: Shape) -> Batch:
        """The batch of these rows, with `bridge` and `place`, (B,) each, and how states are read."""
        found = super()._batch(index_B, shape)
        found |= {"bridge": self.bridge_N[index_B], "place": self.place_N[index_B]}
        return {**found, "read": self.read, "layer": self.layer}
