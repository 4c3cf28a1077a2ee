"""Which weights decay, and which are embeddings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def embeddings(model: nn.Module) -> set[int]:
    """The ids of the weights of embeddings, and so of a head that is tied to them."""
    from torch import nn

    layers = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return {id(weight) for layer in layers for weight in layer.parameters()}


def decayed(model: nn.Module, usual: Iterable[str], of_embeddings: bool, of_norms_and_biases: bool) -> list[str]:
    """The names of the weights that decay; `usual`: those that do in transformers, all but norms and biases."""
    weights = dict(model.named_parameters())
    wanted = set(weights) if of_norms_and_biases else set(usual)
    spared = set() if of_embeddings else embeddings(model)
    return [name for name, weight in weights.items() if name in wanted and id(weight) not in spared]
