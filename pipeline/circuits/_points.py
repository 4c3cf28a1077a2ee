"""Where in a model each named point is, and how its value is cut out of what flows there and put back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pipeline.circuits._architectures import Layout


class HookPoint(NamedTuple):
    """What flows into (`side` in) or out of a module, or through its attention, at its call number `call`.

    `get` turns arguments and output of the call into the named value, `put` a new value into what replaces it.
    """

    module: nn.Module
    side: str
    call: int
    get: Callable[[Any, Any], Tensor]
    put: Callable[[Tensor, Any, Any], Any]


class Parts(Protocol):
    """What `Hooks` knows of a model: its blocks, heads and groups, and where their modules are."""

    model: Any
    family: Layout
    blocks: list[Any]
    final_norm: Any
    n_layer: int
    n_head: int
    n_group: int
    d_head: int

    def part(self, layer: int, name: str) -> Any: ...

    def out_weight(self, layer: int) -> Tensor: ...


def points_of(hooks: Parts) -> dict[str, HookPoint]:
    """The points of a model by name, in the order in which they are passed."""
    points: dict[str, HookPoint] = {}
    calls: Counter[tuple[nn.Module, str]] = Counter()

    def add(module: nn.Module, side: str, found: Mapping[str, tuple[Any, Any]]) -> None:
        for name, (get, put) in found.items():
            points[name] = HookPoint(module, side, calls[module, side], get, put)
        calls[module, side] += 1

    whole_in = (lambda inputs, output: inputs[0], lambda value, inputs, output: value)
    whole_out = (lambda inputs, output: output, lambda value, inputs, output: value)
    add(getattr(hooks.model.base_model, hooks.family.embed), "out", {"hook_embed": whole_out})
    for layer in range(hooks.n_layer):
        at = f"blocks.{layer}."
        part = partial(hooks.part, layer)
        # In the order in which they run, which decides the calls of a module that stands in two places.
        add(hooks.blocks[layer], "in", {f"{at}hook_resid_pre": whole_in})
        add(part("ln1"), "in", {f"{at}hook_attn_in": whole_in})
        add(part("ln1"), "out", {f"{at}ln1.hook_normalized": whole_out})
        if hooks.family.qkv:
            split = {
                f"{at}attn.hook_{'qkv'[i]}": (partial(_one, hooks, i), partial(_put_one, hooks, i)) for i in range(3)
            }
            add(part("qkv"), "out", {f"{at}attn.hook_qkv": (partial(_qkv, hooks), partial(_put_qkv, hooks)), **split})
        for name in "" if hooks.family.qkv else "qkv":
            by_head = (lambda inputs, output: output.unflatten(-1, (-1, hooks.d_head)), lambda x, *_: x.flatten(-2))
            add(part(name), "out", {f"{at}attn.hook_{name}": by_head})
        whole = (lambda value, _: value, lambda value, *_: value)
        add(part("attention"), "scores", {f"{at}attn.hook_attn_scores": whole})
        add(part("attention"), "pattern", {f"{at}attn.hook_pattern": whole})
        heads = (lambda inputs, output: inputs[0].unflatten(-1, (hooks.n_head, -1)), lambda z, *_: z.flatten(-2))
        add(part("proj"), "in", {f"{at}attn.hook_z": heads})
        result = (partial(_result, hooks, layer), partial(_put_result, hooks, layer))
        add(part("proj"), "out", {f"{at}attn.hook_result": result, f"{at}hook_attn_out": whole_out})
        add(part("ln2"), "in", {f"{at}hook_mlp_in": whole_in})
        add(part("ln2"), "out", {f"{at}ln2.hook_normalized": whole_out})
        add(part("mlp_in"), "out", {f"{at}mlp.hook_pre": whole_out})
        if hooks.family.mlp_up:
            add(part("mlp_up"), "out", {f"{at}mlp.hook_pre_linear": whole_out})
        add(part("mlp_out"), "in", {f"{at}mlp.hook_post": whole_in})
        add(part("mlp"), "out", {f"{at}hook_mlp_out": whole_out})
        add(hooks.blocks[layer], "out", {f"{at}hook_resid_post": whole_out})
    add(hooks.final_norm, "out", {"ln_final.hook_normalized": whole_out})
    return points


def split_heads(hooks: Parts, output: Tensor) -> Tensor:
    """What a fused projection gives as queries, keys and values by head, (..., 3, H, E)."""
    if hooks.family.name == "GPT-NeoX":  # whose heads have theirs side by side
        return output.unflatten(-1, (hooks.n_head, 3, hooks.d_head)).transpose(-2, -3)
    return output.unflatten(-1, (3, hooks.n_head, hooks.d_head))


def _qkv(hooks: Parts, inputs: Any, output: Tensor) -> Tensor:
    return split_heads(hooks, output)


def _put_qkv(hooks: Parts, value: Tensor, inputs: Any, output: Any) -> Tensor:
    return (value.transpose(-2, -3) if hooks.family.name == "GPT-NeoX" else value).flatten(-3)


def _one(hooks: Parts, which: int, inputs: Any, output: Tensor) -> Tensor:
    return split_heads(hooks, output)[..., which, :, :]


def _put_one(hooks: Parts, which: int, value: Tensor, inputs: Any, output: Tensor) -> Tensor:
    parts = list(split_heads(hooks, output).unbind(-3))
    parts[which] = value
    return _put_qkv(hooks, torch.stack(parts, -3), inputs, output)


def _result(hooks: Parts, layer: int, inputs: Any, output: Tensor) -> Tensor:
    z = inputs[0].unflatten(-1, (hooks.n_head, -1))
    return torch.einsum("...he,hed->...hd", z, hooks.out_weight(layer))


def _put_result(hooks: Parts, layer: int, value: Tensor, inputs: Any, output: Tensor) -> Tensor:
    bias = hooks.part(layer, "proj").bias
    return value.sum(-2) if bias is None else value.sum(-2) + bias


def separate(hooks: Parts) -> None:
    """Gives each head a key and a value of its own, which are those of its group; the model is changed."""
    times, config = hooks.n_head // hooks.n_group, hooks.model.config
    config.num_key_value_heads = hooks.n_group = hooks.n_head
    for layer in range(hooks.n_layer):
        hooks.part(layer, "attention").num_key_value_groups = 1
        for name in "kv":
            _repeat_heads(hooks.part(layer, name), times, hooks.d_head)


def _repeat_heads(linear: Any, times: int, width: int) -> None:
    """Repeats the rows of a projection, each head's so many times."""
    for name in ("weight", "bias"):
        if (rows := getattr(linear, name)) is not None:
            repeated = rows.detach().unflatten(0, (-1, width)).repeat_interleave(times, 0).flatten(0, 1)
            setattr(linear, name, nn.Parameter(repeated, requires_grad=rows.requires_grad))
    linear.out_features = len(linear.weight)
