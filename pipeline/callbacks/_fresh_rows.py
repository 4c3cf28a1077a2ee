"""Embeddings drawn anew: which weights they are, and the same numbers on every process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.callbacks.base import Trainer


def check_whole(trainer: Trainer, name: str) -> None:
    """Refuses a callback that needs whole weights where processes have parts of them.

    Raises:
        ParameterError: that names the callback.
    """
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise ParameterError(f"callbacks.{name}", "needs whole weights, which DeepSpeed and FSDP do not keep")


def token_weights(model: Any) -> list[nn.Parameter]:
    """The token embedding (V, D), and the output projection where it is another weight."""
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    return list({id(layer.weight): layer.weight for layer in layers if layer is not None}.values())


def fresh(weight: Tensor, std: float, *place: int) -> Tensor:
    """Normal numbers of the shape of a weight, decided by `place` alone: on every process, and after resuming."""
    import torch

    from pipeline.utils.draws import Draws

    seed = int(Draws(place[0], "fresh embeddings", *place[1:]).below(2**31, 1)[0])
    drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) * std
    return drawn.to(weight)
