"""Reading, replacing and differentiating inside GPT-2, GPT-NeoX and Llama, at points as TransformerLens names them.

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
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.circuits._architectures import LAYOUTS, linear_weight, module_at
from pipeline.circuits._attention_probe import seen_attention
from pipeline.circuits._points import HookPoint, points_of, separate, split_heads
from pipeline.kernels.onednn import quicken
from pipeline.utils.errors import UnsupportedError
from pipeline.utils.suggest import did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Function = Callable[[Tensor], Tensor | None]
NOTHING: Mapping[str, Function] = {}


class Hooks:
    """The named points of a model. B sequences of T tokens, width D, H heads of width E, L blocks that run.

    G is the number of keys and values: H, or fewer in grouped-query attention, each for as many neighbouring heads.

    | point | shape | what it is |
    |---|---|---|
    | `hook_embed` | BTD | the token embedding |
    | `blocks.{i}.hook_resid_pre`, `hook_resid_post` | BTD | the residual stream before and after a block |
    | `blocks.{i}.hook_attn_in`, `hook_mlp_in` | BTD | what attention, or the MLP, alone reads of it |
    | `blocks.{i}.ln1.hook_normalized`, `ln2`, `ln_final` | BTD | after a norm with its weight and bias |
    | `blocks.{i}.attn.hook_q`, `hook_z` | BTHE | of each head, before rotation |
    | `blocks.{i}.attn.hook_k`, `hook_v` | BTGE | of each head or group, before rotation and shift |
    | `blocks.{i}.attn.hook_qkv` | BT3HE | the three in one, of GPT-2 and GPT-NeoX, where one module makes them |
    | `blocks.{i}.attn.hook_attn_scores`, `hook_pattern` | BHTT | before and after the softmax |
    | `blocks.{i}.attn.hook_result` | BTHD | what each head adds to the stream, without the bias of all |
    | `blocks.{i}.hook_attn_out`, `hook_mlp_out` | BTD | what attention and MLP add |
    | `blocks.{i}.mlp.hook_pre`, `hook_post` | BTM | MLP neurons before and after the activation |
    | `blocks.{i}.mlp.hook_pre_linear` | BTM | what neurons are multiplied by before `hook_post`, of gated MLPs |

    Raises:
        UnsupportedError: for a model that is no GPT-2, GPT-NeoX or Llama, naming the modules it lacks.
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
        self.d_head = int(getattr(config, "head_dim", None) or self.d_model // self.n_head)
        self.n_group = int(getattr(config, "num_key_value_heads", None) or self.n_head)
        self.parallel = bool(getattr(self.blocks[0], "use_parallel_residual", False))
        self.final_norm: Any = getattr(base, self.family.final)
        self.head: Any = model.get_output_embeddings()

    def part(self, layer: int, name: str) -> Any:
        """A module of a block by its name in `Layout`, such as `ln1` or `mlp_out`."""
        return module_at(self.blocks[layer], getattr(self.family, name))

    def has(self, name: str) -> bool:
        """Whether models of this family have a part of `Layout`."""
        return bool(getattr(self.family, name))

    def head_points(self, layer: int) -> list[str]:
        """The points at which a block has queries, keys and values: one of all three, or three."""
        return [f"blocks.{layer}.attn.hook_{part}" for part in (["qkv"] if self.family.qkv else "qkv")]

    def twin(self) -> Hooks:
        """Hooks on a copy of the model's modules that shares their weights, for another thread."""
        tensors = itertools.chain(self.model.parameters(), self.model.buffers())
        return Hooks(copy.deepcopy(self.model, {id(tensor): tensor for tensor in tensors}))

    def ungrouped(self) -> Hooks:
        """Hooks on a copy of the model in which each head has a key and a value of its own; itself where each has.

        Those of a group begin as the same: the copy computes what the model does, and shares its weights but for the
        repeated projections. So an edge leads into the key of one head, as of models without groups.
        """
        if self.n_group == self.n_head:
            return self
        found = self.twin()
        separate(found)
        return found

    @cached_property
    def points(self) -> dict[str, HookPoint]:
        return points_of(self)

    def in_weight(self, layer: int) -> Tensor:
        """What turns the normed stream into queries, keys and values, (3, H, E, D), without the bias.

        The key and the value of a group stand there for each of its heads.
        """
        if not self.family.qkv:
            return torch.stack([self._by_head(linear_weight(self.part(layer, name))) for name in "qkv"])
        return split_heads(self, linear_weight(self.part(layer, "qkv")).T).movedim(0, -1)

    def in_bias(self, layer: int) -> Tensor | None:
        """The bias of queries, keys and values, (3, H, E), or None."""
        if self.family.qkv:
            bias = self.part(layer, "qkv").bias
            return None if bias is None else split_heads(self, bias)
        biases = [self.part(layer, name).bias for name in "qkv"]
        return None if biases[0] is None else torch.stack([self._by_head(bias) for bias in biases])

    def _by_head(self, rows: Tensor) -> Tensor:
        """The rows of a projection by head, (H, E, ...); those of a group for each of its heads."""
        found = rows.unflatten(0, (-1, self.d_head))
        return found.repeat_interleave(self.n_head // len(found), 0)

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
