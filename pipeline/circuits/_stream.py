"""Whether a model is what its hooks take it for, seen in a few prompts; the names of modules do not say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.utils.errors import UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pipeline.circuits.base import Pairs
    from pipeline.circuits.hooks import Hooks

ROWS = 4
TOLERANCE = 0.01  # largest relative difference: far above rounding, TF32's included
HALF = 0.1  # the same of weights in half precision


def check_output(hooks: Hooks, tokens: Tensor) -> None:
    """Checks that logits are what the output projection makes of the normed state after the last block.

    Raises:
        UnsupportedError: when they are not, as where logits are capped or scaled.
    """
    end = f"blocks.{hooks.n_layer - 1}.hook_resid_post"
    logits, found = hooks.read(tokens[:ROWS], [end])
    with torch.no_grad():
        _check_equal(hooks, hooks.head(hooks.final_norm(found[end])), logits, "logits")


def check_model_output(model: PreTrainedModel, pairs: Pairs) -> None:
    """The same of a model before it is trained, on the first of the prompts; no random number is drawn for it."""
    from pipeline.circuits.hooks import Hooks

    was_training = model.training
    model.eval()
    try:
        check_output(Hooks(model), torch.from_numpy(pairs.clean[:ROWS]).long().to(model.device))
    finally:
        model.train(was_training)


def check_edges(hooks: Hooks, tokens: Tensor) -> None:
    """Checks that embedding, heads and MLPs add up to the stream, and that heads and MLPs read that sum.

    Raises:
        UnsupportedError: naming the first place where something else flows.
    """
    layers = range(hooks.n_layer)
    parts = ("hook_resid_pre", "hook_attn_in", "attn.hook_z", "hook_mlp_in", "hook_mlp_out")
    wanted = [f"blocks.{layer}.{part}" for layer in layers for part in parts]
    logits, found = hooks.read(
        tokens[:ROWS], [*wanted, *(name for layer in layers for name in hooks.head_points(layer))]
    )
    stream = found["blocks.0.hook_resid_pre"]
    with torch.no_grad():
        for layer in layers:
            before, attn_in, z, mlp_in, mlp_out = (found[f"blocks.{layer}.{part}"] for part in parts)
            _check_equal(hooks, stream, before, f"the stream before block {layer}")
            _check_equal(hooks, stream, attn_in, f"what attention of block {layer} reads")
            normed = hooks.part(layer, "ln1")(stream)
            expected, points = projected(hooks, layer, normed), hooks.head_points(layer)
            for number, point in enumerate(points):
                part = expected if len(points) == 1 else expected[:, :, number]
                _check_equal(hooks, part, found[point], f"queries, keys and values of block {layer}")
            heads = torch.einsum("bthe,hed->btd", z, hooks.out_weight(layer))
            bias = hooks.part(layer, "proj").bias
            after = stream + heads if bias is None else stream + heads + bias
            _check_equal(hooks, stream if hooks.parallel else after, mlp_in, f"what the MLP of block {layer} reads")
            stream = after + mlp_out
        _check_equal(hooks, hooks.head(hooks.final_norm(stream)), logits, "logits")


def projected(hooks: Hooks, layer: int, normed: Tensor) -> Tensor:
    """Queries, keys and values (B, T, 3, H, E) of the normed stream, by weight and bias."""
    found = torch.einsum("btd,xhed->btxhe", normed, hooks.in_weight(layer))
    bias = hooks.in_bias(layer)
    return found if bias is None else found + bias


def _check_equal(hooks: Hooks, expected: Tensor, found: Tensor, what: str) -> None:
    scale, off = (float(part.float().norm()) for part in (found, expected - found))
    most = TOLERANCE if found.dtype in (torch.float32, torch.float64) else HALF
    if not off <= most * max(scale, 1e-12):
        raise UnsupportedError(
            f"{type(hooks.model).__name__} has the modules of {hooks.family.name} and computes something else: "
            f"{what} is {off / max(scale, 1e-12):.0%} off what its parts give"
        )


def check_patched(hooks: Hooks, ends: Tensor, clean: Tensor, corrupted: Tensor, stop: int) -> None:
    """Checks patched runs that were put together from caches, (L, n, D) or (1, n, D), against one made in the open.

    In a model whose blocks read more than the stream and the keys and values of those tokens, they differ.

    Args:
        ends: normed last states after patching the stream before each block.
        clean, corrupted: prompts (n, T).
        stop: where the patched positions end.

    Raises:
        UnsupportedError: when they do.
    """
    layer = hooks.n_layer // 2 if len(ends) > 1 else 0
    point, last = f"blocks.{layer}.hook_resid_pre", "ln_final.hook_normalized"
    _, other = hooks.read(corrupted, [point])
    found: dict[str, Tensor] = {}

    def patch(value: Tensor) -> Tensor:
        return torch.cat([other[point][:, :stop], value[:, stop:]], dim=1)

    with torch.no_grad(), hooks.at({point: patch, last: lambda value: found.update({last: value})}):
        hooks.run(clean)
    _check_equal(hooks, found[last][:, -1], ends[layer], "the last state of a patched run")
