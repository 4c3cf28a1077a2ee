"""Whether the short forward of `pipeline.kernels.forward` computes just what a model computes.

What the short forward replaces (the model, its blocks, attention, MLP, dropout) must be transformers' own code, without
hooks. What it calls (projections, norms, activations, embeddings) may be anything that treats positions one by one.
What types do not tell is measured on a copy of the model, in train mode with every dropout at zero and every trained
weight moved off its first value: logits, and the gradient of each parameter. At first weights alone a variant whose new
parameter is zero could not be told from its family.
"""

from __future__ import annotations

import copy
import functools
import random
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.dropout import _DropoutNd
from transformers import GPT2LMHeadModel, GPTNeoXForCausalLM, PreTrainedModel
from transformers.activations import ACT2CLS
from transformers.models.gpt2 import modeling_gpt2 as gpt2
from transformers.models.gpt_neox import modeling_gpt_neox as gpt_neox
from transformers.pytorch_utils import Conv1D

from pipeline.kernels.onednn import QUICK

Compute = Callable[[nn.Module], torch.Tensor]
NOISE = 0.02  # standard deviation of what is added to the weights of the copy
# Largest relative difference of logits and gradients, as vectors: far above rounding, TF32's included, and below what
# another computation gives.
TOLERANCE = {torch.bfloat16: 0.3, torch.float16: 0.05}
USUAL = 0.01


class StockModel(NamedTuple):
    """A class of transformers, and below it the modules whose forward is replaced, by patterns of their names."""

    model: type[PreTrainedModel]
    embedding: str  # of tokens, called on all of a row in the short forward too
    stack: str  # of the blocks
    replaced: dict[str, type[nn.Module]]


STOCK = {
    "gpt2": StockModel(
        GPT2LMHeadModel,
        "transformer.wte",
        "transformer.h",
        {
            r"transformer": gpt2.GPT2Model,
            r"transformer\.drop": nn.Dropout,
            r"transformer\.h\.\d+": gpt2.GPT2Block,
            r"transformer\.h\.\d+\.attn": gpt2.GPT2Attention,
            r"transformer\.h\.\d+\.mlp": gpt2.GPT2MLP,
            r"transformer\.h\.\d+\.(attn\.attn_dropout|attn\.resid_dropout|mlp\.dropout)": nn.Dropout,
        },
    ),
    "gpt_neox": StockModel(
        GPTNeoXForCausalLM,
        "gpt_neox.embed_in",
        "gpt_neox.layers",
        {
            r"gpt_neox": gpt_neox.GPTNeoXModel,
            r"gpt_neox\.emb_dropout": nn.Dropout,
            r"gpt_neox\.layers\.\d+": gpt_neox.GPTNeoXLayer,
            r"gpt_neox\.layers\.\d+\.attention": gpt_neox.GPTNeoXAttention,
            r"gpt_neox\.layers\.\d+\.mlp": gpt_neox.GPTNeoXMLP,
            r"gpt_neox\.layers\.\d+\.post_(attention|mlp)_dropout": nn.Dropout,
        },
    ),
}
_ACTIVATIONS = {entry[0] if isinstance(entry, tuple) else entry for entry in ACT2CLS.values()}
# Modules that treat positions one by one, so that they may be called at the answer positions alone.
POSITIONWISE = {
    nn.Linear, Conv1D, nn.Embedding, nn.LayerNorm, nn.RMSNorm, nn.Identity, gpt_neox.GPTNeoXRotaryEmbedding,
    *QUICK.values(), *_ACTIVATIONS,
}  # fmt: skip


def family_of(model: PreTrainedModel) -> str | None:
    """The family whose class a model is exactly, no subclass of it."""
    return next((name for name, family in STOCK.items() if type(model) is family.model), None)


def why_not(model: PreTrainedModel, declared: str | None, compute: Compute, install: Callable[[Any], object],
            short: Compute) -> str | None:  # fmt: skip
    """Why the short forward must not be used; None: it computes just what the model does.

    Args:
        model: The model, which is not changed.
        declared: The family that its architecture declares.
        compute: Gives logits by the model's own forward.
        install: Lets a model be called by `short`.
        short: Gives logits by the short forward.
    """
    name = type(model).__name__
    if declared is None:
        return f"{name} is not declared to be of the family {' or '.join(STOCK)}"
    reason = other_code(model, STOCK[declared])
    if reason is None:
        twin = twin_of(model)
        install(twin)
        reason = difference(twin, compute, short)
    return None if reason is None else f"{name} is not just {declared}: {reason}"


def other_code(model: Any, family: StockModel) -> str | None:
    """The first module that runs other code than the family's where the short forward replaces or narrows it."""
    if type(model).forward is not family.model.forward:
        return f"{type(model).__name__} has a forward of its own"
    if not getattr(model.config, "is_causal", True):
        return "its attention is not causal"
    hooked = next(foreign_hooks(model), None)
    if hooked is not None:
        return f"{hooked or type(model).__name__} has a hook"
    stack = model.get_submodule(family.stack)
    # A stack or an embedding of the modeling file itself is what the architecture declares.
    home = type(model).__module__
    if type(stack) is not nn.ModuleList and type(stack).__module__ != home:
        return f"{family.stack} is a {type(stack).__name__}"
    called = re.compile(r"^$")
    for name, module in model.named_modules():
        if called.match(name):  # inside what is called as a whole
            continue
        if "forward" in vars(module):
            return f"the forward of {name or type(model).__name__} is replaced"
        if getattr(module, "gradient_checkpointing", False):
            return f"{name or type(model).__name__} recomputes activations"
        kind = next((kind for place, kind in family.replaced.items() if re.fullmatch(place, name)), None)
        if kind is not None:
            if type(module) is not kind:
                return f"{name} is a {type(module).__name__}, not {kind.__name__}"
            if kind.forward.__module__ != kind.__module__:
                return f"the forward of {kind.__name__} is replaced"
        elif type(module).__module__.startswith("peft.") or (
            name == family.embedding and type(module).__module__ == home
        ):
            called = re.compile(rf"^{re.escape(name)}\.")
        elif name not in ("", family.stack) and type(module) not in POSITIONWISE and _is_used(name, family):
            return f"{name} is a {type(module).__name__}, which may mix positions"
    return None


def _is_used(name: str, family: StockModel) -> bool:
    """Whether a module that is not replaced is one that a forward of text alone calls."""
    return not re.search(r"\.(crossattention|ln_cross_attn)(\.|$)", name)


def foreign_hooks(model: nn.Module) -> Iterator[str]:
    """The names of modules with a hook that is not of a library that shards or casts."""
    for name, module in model.named_modules():
        for hooks in hook_tables([module]):
            if any(not _is_library(hook) for hook in hooks.values()):
                yield name
    if any(_GLOBAL_HOOKS):
        yield "every module"


def hook_tables(modules: Iterable[nn.Module]) -> list[dict[int, Any]]:
    """The tables of all hooks of some modules, which torch fills and empties in place."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [getattr(module, kind) for module in modules for kind in kinds]


_GLOBAL_HOOKS = (
    torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks,
    torch_module._global_backward_hooks, torch_module._global_backward_pre_hooks,
)  # fmt: skip


def _is_library(hook: Any) -> bool:
    while isinstance(hook, functools.partial):
        hook = hook.func
    home = getattr(hook, "__module__", None) or type(hook).__module__
    # `AnswerPositions` is what a model's own way is narrowed with; added rows belong to modules called whole.
    ours = ("pipeline.data.rows", "pipeline.models.added_rows")
    return home.partition(".")[0] in ("torch", "deepspeed", "accelerate") or home in ours


def why_not_recorded(model: nn.Module, is_short: bool) -> str | None:
    """What of a model's forward a CUDA graph would not repeat."""
    if any(foreign_hooks(model)):
        return "hooks on the model are Python, which a graph does not run again"
    config = getattr(model, "config", None)
    homes = {type(module).__module__.partition(".")[0] for module in model.modules()}
    if is_short or (homes <= {"torch", "transformers", "peft"} and not getattr(config, "layerdrop", 0)):
        return None
    return "the model's own forward may decide anew at each step, which a graph does not"


def twin_of(model: PreTrainedModel) -> Any:
    """A copy in train mode without dropout, whose trained weights are moved; those that are frozen are shared."""
    shared = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
    twin: Any = copy.deepcopy(model, shared).train()
    for module in twin.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        if isinstance(module, gpt_neox.GPTNeoXAttention):
            module.attention_dropout = 0.0
    noise: dict[torch.device, torch.Generator] = {}
    with torch.no_grad():
        for weight in twin.parameters():
            weight.grad = None
            if weight.requires_grad:
                if weight.device not in noise:
                    noise[weight.device] = torch.Generator(weight.device).manual_seed(0)
                drawn = torch.empty_like(weight).normal_(std=NOISE, generator=noise[weight.device])
                weight.add_(drawn)
    return twin


def difference(model: nn.Module, theirs: Compute, ours: Compute) -> str | None:
    """What two ways to the logits of a model do differently, in value or in the gradient of a parameter."""
    with _kept_random_state(model) as drew:
        logits = theirs(model)
        if drew():
            return "it draws random numbers beside its dropout"
        weights = torch.empty(logits.shape).normal_(generator=torch.Generator().manual_seed(1)).to(logits.device)
        (logits.float() * weights).sum().backward()
        before = {
            name: 0.0 if weight.grad is None else float(weight.grad.float().norm())
            for name, weight in model.named_parameters()
        }
        again = ours(model)
        if again.shape != logits.shape:
            return "its logits have another shape"
        # Taken off the gradients that are there, so that one set of them is enough.
        (again.float() * -weights).sum().backward()
    tolerance = TOLERANCE.get(next(model.parameters()).dtype, USUAL)
    scale, off = (float(part.detach().float().norm()) for part in (logits, again - logits))
    if not off <= tolerance * scale:
        return f"its logits differ by {off / scale:.2g} of their size"
    least = 1e-4 * max(before.values(), default=0.0)
    for name, weight in model.named_parameters():
        off = 0.0 if weight.grad is None else float(weight.grad.float().norm())
        if not off <= tolerance * (before[name] + least):
            return f"the gradient of {name} differs"
    return None


@contextmanager
def _kept_random_state(model: nn.Module) -> Iterator[Callable[[], bool]]:
    """Within the block random numbers may be drawn; afterwards all streams are where they were.

    What it yields says whether any was drawn since the block began.
    """
    devices = sorted({weight.device.index or 0 for weight in model.parameters() if weight.device.type == "cuda"})

    def state() -> list[Any]:
        streams = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
        return [*(stream.tolist() for stream in streams), random.getstate(), repr(np.random.get_state())]

    plain, numbers, first = random.getstate(), np.random.get_state(), state()
    with torch.random.fork_rng(devices):
        try:
            yield lambda: state() != first
        finally:
            random.setstate(plain)
            np.random.set_state(numbers)
