"""Reading, replacing and differentiating inside GPT-2 and GPT-NeoX, at points named as TransformerLens names them.

    hooks = Hooks(model)
    logits, found = hooks.read(tokens, ["blocks.0.attn.hook_pattern", "blocks.1.hook_resid_pre"])
    with hooks.at({"blocks.0.hook_mlp_out": torch.zeros_like}):
        ablated = model(tokens).logits

The model's own code runs, with torch hooks on its modules for as long as they are needed: nothing is wrapped, copied
or renamed, and outside the `with` block the model is as it was. A module that runs several times in a forward pass,
such as a block of a looped model, has a point for each time.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.circuits._architectures import LAYOUTS, linear_weight, module_at
from pipeline.circuits._attention_probe import seen_attention
from pipeline.kernels.onednn import quicken
from pipeline.utils.errors import UnsupportedError
from pipeline.utils.suggest import did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Function = Callable[[Tensor], Tensor | None]
NOTHING: Mapping[str, Function] = {}


class HookPoint(NamedTuple):
    """What flows into (`side` in) or out of a module, or through its attention, at its call number `call`.

    `get` turns arguments and output of the call into the named value, `put` a new value into what replaces it.
    """

    module: nn.Module
    side: str
    call: int
    get: Callable[[Any, Any], Tensor]
    put: Callable[[Tensor, Any, Any], Any]


class Hooks:
    """The named points of a model. B sequences of T tokens, width D, H heads of width E, L blocks that run.

    | point | shape | what it is |
    |---|---|---|
    | `hook_embed` | BTD | the token embedding |
    | `blocks.{i}.hook_resid_pre`, `hook_resid_post` | BTD | the residual stream before and after a block |
    | `blocks.{i}.hook_attn_in`, `hook_mlp_in` | BTD | what attention, or the MLP, alone reads of it |
    | `blocks.{i}.ln1.hook_normalized`, `ln2`, `ln_final` | BTD | after a norm with its weight and bias |
    | `blocks.{i}.attn.hook_q`, `hook_k`, `hook_v`, `hook_z` | BTHE | of each head, before rotation and shift |
    | `blocks.{i}.attn.hook_qkv` | BT3HE | the three in one |
    | `blocks.{i}.attn.hook_attn_scores`, `hook_pattern` | BHTT | before and after the softmax |
    | `blocks.{i}.attn.hook_result` | BTHD | what each head adds to the stream, without the bias of all |
    | `blocks.{i}.hook_attn_out`, `hook_mlp_out` | BTD | what attention and MLP add |
    | `blocks.{i}.mlp.hook_pre`, `hook_post` | BTM | MLP neurons before and after the activation |

    Raises:
        UnsupportedError: for a model that is neither a GPT-2 nor a GPT-NeoX, naming the modules it lacks.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model
        base: Any = model.base_model
        gaps = {family: family.missing(base) for family in LAYOUTS}
        self.family = min(gaps, key=lambda family: len(gaps[family]))
        if gaps[self.family]:
            lacks = "; ".join(f"{family.name} has {', '.join(names)}" for family, names in gaps.items())
            raise UnsupportedError(f"{type(model).__name__} is no model that can be hooked; it lacks what {lacks}")
        # Iterated, not indexed: a looped stack yields the same block once for each time it runs.
        self.blocks: list[Any] = list(getattr(base, self.family.blocks))
        config: Any = model.config
        self.n_layer, self.n_head = len(self.blocks), int(config.num_attention_heads)
        self.d_model = int(config.hidden_size)
        self.d_head = self.d_model // self.n_head
        self.parallel = bool(getattr(self.blocks[0], "use_parallel_residual", False))
        self.final_norm: Any = getattr(base, self.family.final)
        self.head: Any = model.get_output_embeddings()

    def part(self, layer: int, name: str) -> Any:
        """A module of a block by its name in `Layout`, such as `ln1` or `mlp_out`."""
        return module_at(self.blocks[layer], getattr(self.family, name))

    def twin(self) -> Hooks:
        """Hooks on a copy of the model's modules that shares their weights, for another thread."""
        tensors = itertools.chain(self.model.parameters(), self.model.buffers())
        return Hooks(copy.deepcopy(self.model, {id(tensor): tensor for tensor in tensors}))

    @cached_property
    def points(self) -> dict[str, HookPoint]:
        points: dict[str, HookPoint] = {}
        calls: Counter[tuple[nn.Module, str]] = Counter()

        def add(module: nn.Module, side: str, found: Mapping[str, tuple[Any, Any]]) -> None:
            for name, (get, put) in found.items():
                points[name] = HookPoint(module, side, calls[module, side], get, put)
            calls[module, side] += 1

        whole_in = (lambda inputs, output: inputs[0], lambda value, inputs, output: value)
        whole_out = (lambda inputs, output: output, lambda value, inputs, output: value)
        add(getattr(self.model.base_model, self.family.embed), "out", {"hook_embed": whole_out})
        for layer in range(self.n_layer):
            at = f"blocks.{layer}."
            part = partial(self.part, layer)
            # In the order in which they run, which decides the calls of a module that stands in two places.
            add(self.blocks[layer], "in", {f"{at}hook_resid_pre": whole_in})
            add(part("ln1"), "in", {f"{at}hook_attn_in": whole_in})
            add(part("ln1"), "out", {f"{at}ln1.hook_normalized": whole_out})
            split = {f"{at}attn.hook_{'qkv'[i]}": (partial(self._one, i), partial(self._put_one, i)) for i in range(3)}
            add(part("qkv"), "out", {f"{at}attn.hook_qkv": (self._qkv, self._put_qkv), **split})
            whole = (lambda value, _: value, lambda value, *_: value)
            add(part("attention"), "scores", {f"{at}attn.hook_attn_scores": whole})
            add(part("attention"), "pattern", {f"{at}attn.hook_pattern": whole})
            heads = (lambda inputs, output: inputs[0].unflatten(-1, (self.n_head, -1)), lambda z, *_: z.flatten(-2))
            add(part("proj"), "in", {f"{at}attn.hook_z": heads})
            result = (partial(self._result, layer), partial(self._put_result, layer))
            add(part("proj"), "out", {f"{at}attn.hook_result": result, f"{at}hook_attn_out": whole_out})
            add(part("ln2"), "in", {f"{at}hook_mlp_in": whole_in})
            add(part("ln2"), "out", {f"{at}ln2.hook_normalized": whole_out})
            add(part("mlp_in"), "out", {f"{at}mlp.hook_pre": whole_out})
            add(part("mlp_out"), "in", {f"{at}mlp.hook_post": whole_in})
            add(part("mlp"), "out", {f"{at}hook_mlp_out": whole_out})
            add(self.blocks[layer], "out", {f"{at}hook_resid_post": whole_out})
        add(self.final_norm, "out", {"ln_final.hook_normalized": whole_out})
        return points

    @property
    def _interleaved(self) -> bool:
        """Whether query, key and value of a head lie side by side in the fused projection."""
        return self.family.name == "GPT-NeoX"

    def _qkv(self, inputs: Any, output: Tensor) -> Tensor:
        if self._interleaved:
            return output.unflatten(-1, (self.n_head, 3, self.d_head)).transpose(-2, -3)
        return output.unflatten(-1, (3, self.n_head, self.d_head))

    def _put_qkv(self, value: Tensor, inputs: Any, output: Any) -> Tensor:
        return (value.transpose(-2, -3) if self._interleaved else value).flatten(-3)

    def _one(self, which: int, inputs: Any, output: Tensor) -> Tensor:
        return self._qkv(inputs, output)[..., which, :, :]

    def _put_one(self, which: int, value: Tensor, inputs: Any, output: Tensor) -> Tensor:
        parts = list(self._qkv(inputs, output).unbind(-3))
        parts[which] = value
        return self._put_qkv(torch.stack(parts, -3), inputs, output)

    def _result(self, layer: int, inputs: Any, output: Tensor) -> Tensor:
        z = inputs[0].unflatten(-1, (self.n_head, -1))
        return torch.einsum("...he,hed->...hd", z, self.out_weight(layer))

    def _put_result(self, layer: int, value: Tensor, inputs: Any, output: Tensor) -> Tensor:
        bias = self.part(layer, "proj").bias
        return value.sum(-2) if bias is None else value.sum(-2) + bias

    def in_weight(self, layer: int) -> Tensor:
        """What turns the normed stream into queries, keys and values, (3, H, E, D), without the bias."""
        weight = linear_weight(self.part(layer, "qkv"))  # (3D, D)
        if self._interleaved:
            return weight.unflatten(0, (self.n_head, 3, self.d_head)).transpose(0, 1)
        return weight.unflatten(0, (3, self.n_head, self.d_head))

    def out_weight(self, layer: int) -> Tensor:
        """What turns each head's z into what it adds to the stream, (H, E, D)."""
        return linear_weight(self.part(layer, "proj")).T.unflatten(0, (self.n_head, self.d_head))

    @contextmanager
    def at(self, functions: Mapping[str, Function]) -> Iterator[None]:
        """Within the block each forward pass calls the functions with the values at their points.

        What a function returns replaces the value; None leaves it. Attention is computed by this module where scores
        or patterns are asked for, which sdpa never forms: then logits may differ in the last bit.

        Raises:
            KeyError: for a point that the model does not have.
        """
        wanted: dict[tuple[nn.Module, str], dict[int, list[tuple[HookPoint, Function]]]] = {}
        for name, function in functions.items():
            if name not in self.points:
                raise KeyError(
                    f"there is no point {name!r} in {type(self.model).__name__}{did_you_mean(name, self.points)}"
                )
            point = self.points[name]
            calls = wanted.setdefault((point.module, point.side), defaultdict(list))
            calls[point.call].append((point, function))
        done: Counter[tuple[nn.Module, str]] = Counter()

        def visit(module: nn.Module, side: str, inputs: Any, output: Any) -> Any:
            """The replaced value, or None."""
            call = done[module, side]
            done[module, side] += 1
            replaced = None
            for point, function in wanted[module, side].get(call, ()):
                value = function(point.get(inputs, output))
                if value is not None:
                    replaced = point.put(value, inputs, output)
                    inputs, output = ((replaced, *inputs[1:]), output) if side == "in" else (inputs, replaced)
            return replaced

        def before(module: nn.Module, inputs: Any) -> Any:
            replaced = visit(module, "in", inputs, None)
            return None if replaced is None else (replaced, *inputs[1:])

        def after(module: nn.Module, inputs: Any, output: Any) -> Any:
            return visit(module, "out", inputs, output)

        def attend(module: nn.Module, side: str, value: Tensor) -> Tensor:
            replaced = visit(module, side, value, None) if (module, side) in wanted else None
            return value if replaced is None else replaced

        base: Any = self.model.base_model
        handles = [base.register_forward_pre_hook(lambda *_: done.clear())]
        for module, side in wanted:
            if side == "in":
                handles.append(module.register_forward_pre_hook(before))
            elif side == "out":
                handles.append(module.register_forward_hook(after))
        with seen_attention(self.model, attend if any(side in ("scores", "pattern") for _, side in wanted) else None):
            try:
                yield
            finally:
                for handle in handles:
                    handle.remove()

    def read(self, tokens: Tensor, names: Iterable[str], **inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits (B, T, V) of a forward pass and the values at the points, without gradients."""
        found: dict[str, Tensor] = {}
        with torch.no_grad(), self.at({name: partial(_keep, found, name) for name in names}):
            return self.run(tokens, **inputs), found

    def run(self, tokens: Tensor, **inputs: Any) -> Tensor:
        """Logits (B, T, V) of a forward pass; `inputs` go to the model, such as `logits_to_keep`."""
        return self.model(input_ids=tokens, use_cache=False, **inputs).logits

    def gradients(
        self, tokens: Tensor, names: Sequence[str], metric: Callable[[Tensor], Tensor],
        start: Mapping[str, Function] = NOTHING, **inputs: Any,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:  # fmt: skip
        """A metric of the logits, a scalar; the values at the points; and its derivatives with respect to them.

        At a point that only a part of the model reads, such as `hook_mlp_in`, the derivative is through that part. The
        functions of `start` replace values on the way. No gradient of a weight is computed.
        """
        found: dict[str, Tensor] = {}
        functions: dict[str, Function] = {name: partial(_follow, found, name) for name in names}
        # Of points in both, the replacement comes first.
        both = {name: _chain(start[name], functions.get(name)) for name in start}
        with torch.enable_grad(), self.at({**functions, **both}):
            value = metric(self.run(tokens, **inputs))
            slopes = torch.autograd.grad(value, list(found.values()))
        return value.detach(), {name: found[name].detach() for name in found}, dict(zip(found, slopes))


def _keep(found: dict[str, Tensor], name: str, value: Tensor) -> None:
    found[name] = value


def _follow(found: dict[str, Tensor], name: str, value: Tensor) -> Tensor:
    """The value as a node of the graph of its own, so that a derivative is through this point alone."""
    found[name] = value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
    return found[name]


def _chain(first: Function, then: Function | None) -> Function:
    def both(value: Tensor) -> Tensor | None:
        value = value if (new := first(value)) is None else new
        return then(value) if then else value

    return both


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Within the block the model is in eval mode, without dropout, and its layers are those that multiply fastest.

    Afterwards each module is of the class and in the mode that it was.
    """
    training = [module for module in model.modules() if module.training]
    classes = [(module, type(module)) for module in model.modules()]
    model.eval()
    quicken(model)
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for module, kind in classes:
            module.__class__ = kind
