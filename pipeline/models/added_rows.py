"""Embedding rows of added words: drawn, and trained while the matrix that they stand in stays as it is.

A hook on the layer puts them in the place of the matrix's own rows. They are a parameter of their own, so that neither
gradients nor weight decay reach the rows of the base's words, and no gradient of the whole matrix is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

ROWS = "added_rows"  # the parameter, in the layer whose matrix it belongs to


def draw_rows(model: Any, base: int, size: int, how: Literal["mean", "normal"]) -> None:
    """Draw embeddings for the tokens from `base` to `size`; a matrix that has room for them keeps its size.

    how: a tenth of their spread around the mean of the others, so that the tokens differ (Hewitt 2021 takes the mean),
        or as the model's weights are drawn.
    """
    if size > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(size, mean_resizing=False)
    matrices = {id(part.weight): part.weight for part in (model.get_input_embeddings(), model.get_output_embeddings())}
    with torch.no_grad():
        for weight in matrices.values():
            old, new = weight[:base].float(), weight[base:size]
            if how == "mean":
                drawn = old.mean(0) + 0.1 * old.std(0) * torch.randn(new.shape)
            else:
                drawn = model.config.initializer_range * torch.randn(new.shape)
            new.copy_(drawn.to(weight.dtype))


def train_rows(model: Any, ids: range) -> None:
    """Makes the rows `ids` of a model's embeddings parameters of their own, and leaves the matrices untrained.

    Tied embeddings share their rows. A matrix that is frozen already has none that are trained.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    # Whose rows each of the two layers takes: a tied head those of the embedding.
    owners = {embedding: embedding, head: embedding if head.weight is embedding.weight else head}
    for owner in dict.fromkeys(owners.values()):
        if owner.weight.requires_grad:
            owner.weight.requires_grad_(False)
            owner.register_parameter(ROWS, nn.Parameter(owner.weight[ids.start : ids.stop].detach().clone()))
            owner.added_ids = ids
            owner.takes_added = True
    for layer, owner in owners.items():
        if ROWS in owner._parameters:
            # In a list, since a module as an attribute would be a part of this one, and its rows be named twice.
            layer.register_forward_hook(_Taken([owner]))


class _Taken:
    """A forward hook of an embedding or of an output projection by which the added rows are taken."""

    def __init__(self, owner: list[Any]):
        self.owner = owner

    def __call__(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        (owner,) = self.owner
        if not owner.takes_added:
            return output
        ids, rows = owner.added_ids, getattr(owner, ROWS)
        if not isinstance(layer, nn.Embedding):
            bias: Any = layer.bias
            bias = None if bias is None else bias[ids.start : ids.stop]
            output = output.clone()  # what a function of its own returned must not change in place
            output[..., ids.start : ids.stop] = F.linear(inputs[0], rows, bias)
            return output
        places = inputs[0] - ids.start
        is_added = (places >= 0) & (places < len(ids))
        found = F.embedding(places.clamp(0, len(ids) - 1), rows)
        scale = getattr(layer, "embed_scale", None)  # Gemma's embeddings are multiplied by it
        return torch.where(is_added[..., None], found if scale is None else found * scale, output)


def owners(model: Any) -> dict[str, Any]:
    """Name -> layer whose matrix has rows that are trained alone; none where all of it is, or nothing."""
    return {name: module for name, module in model.named_modules() if ROWS in module._parameters}


def with_rows(model: Any, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict in which the added rows stand in their matrices; tied matrices stay tied."""
    weights = dict(weights)
    for name, owner in owners(model).items():
        del weights[f"{name}.{ROWS}"]
        matrix = weights[f"{name}.weight"]
        whole = matrix.detach().clone()
        whole[owner.added_ids.start : owner.added_ids.stop] = getattr(owner, ROWS).detach()
        place = (matrix.data_ptr(), matrix.shape)
        tied = [key for key, weight in weights.items() if (weight.data_ptr(), weight.shape) == place]
        weights.update(dict.fromkeys(tied, whole))
    return weights


@contextmanager
def rows_as_begun(model: Any) -> Iterator[None]:
    """The model with its added rows as they were when training began."""
    found = owners(model).values()
    for owner in found:
        owner.takes_added = False
    try:
        yield
    finally:
        for owner in found:
            owner.takes_added = True
