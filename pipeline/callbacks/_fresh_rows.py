"""Embeddings drawn anew: which weights they are, and the same numbers on every process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def token_weights(model: Any) -> list[nn.Parameter]:
    """The token embedding (V, D), and the output projection where it is another weight."""
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    return list({id(layer.weight): layer.weight for layer in layers if layer is not None}.values())


def fresh(shape: Sequence[int], std: float, *place: int) -> Tensor:
    """Normal numbers of a shape, decided by `place` alone: on every process, and after resuming; on the CPU."""
    import torch

    from pipeline.utils.draws import Draws

    seed = int(Draws(place[0], "fresh embeddings", *place[1:]).below(2**31, 1)[0])
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) * std
