"""Whether the compiled update computes just what a model is trained by, before it is used.

What types and names tell is looked at; then gradients of a copy without dropout, whose weights
are moved off their first values, are compared with those of torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from pipeline.data.rows import Batch
from pipeline.kernels.compiled import CompiledStep
from pipeline.kernels.compiled_layout import ACTIVATIONS, FAMILIES, WeightLayout
from pipeline.kernels.forward import stock_logits
from pipeline.kernels.forward_check import twin_of
from pipeline.kernels.native_code import NotCompiledError, load
from pipeline.kernels.onednn import QUICK

TOLERANCE = 1e-3  # of gradients, as vectors: far above the rounding of float32, and below another computation's
LONGEST = 32  # tokens of a row, beyond which attention is better done by products
TokenLosses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def compiled_step(
    model: PreTrainedModel, batch: Batch, loss: str, token_losses: TokenLosses
) -> tuple[CompiledStep | None, str | None]:
    """The compiled update of a model, or why there is none.

    Args:
        model: Whose forward is found to be its family's own (`fast_logits`).
        batch: Some rows of its training, on which the compiled gradients are compared with torch's.
        loss: Its name, `cross_entropy` or `stablemax`.
        token_losses: The same in torch, from logits (B, A, V) and labels (B, A) to losses (B, A).
    """
    reason = why_not_compiled(model, batch)
    if reason:
        return None, reason
    try:
        library = load()
    except NotCompiledError as error:
        return None, str(error)
    twin = twin_of(model)
    reason = _difference(twin, CompiledStep(twin, library, loss), batch, token_losses)
    return (None, reason) if reason else (CompiledStep(model, library, loss), None)


def why_not_compiled(model: Any, batch: Batch) -> str | None:
    """What of a model is not as the compiled code has it."""
    family = FAMILIES.get(model.config.model_type)
    if family is None or type(model) is not family.model:
        return f"{type(model).__name__} is not {' or '.join(family.title for family in FAMILIES.values())}"
    layout, weights = WeightLayout(model, family), dict(model.named_parameters())
    if {*weights} != {*layout.names()}:
        return f"it has other weights than {family.title}"
    for name, weight in weights.items():
        if not (weight.requires_grad and weight.is_contiguous() and weight.dtype == torch.float32 and weight.is_cpu):
            return f"{name} is not trained, or not in float32 on the CPU"
    for name, module in model.named_modules():
        kind = nn.Linear if module is layout.head else family.linear
        is_linear = module is layout.head or name.endswith(tuple(part for part in family.parts if "." in part))
        if is_linear and type(module) not in (kind, QUICK[kind]):
            return f"{name} is a {type(module).__name__}"
        if isinstance(module, nn.Embedding) and (type(module) is not nn.Embedding or module.max_norm is not None):
            return f"{name} is no plain embedding"
    activation = getattr(model.config, family.activation)
    if activation not in ACTIVATIONS or any(
        type(block.mlp.act) is not type(ACT2FN[activation]) for block in layout.blocks
    ):
        return f"its activation is none of {', '.join(ACTIVATIONS)}"
    size = model.config.hidden_size // model.config.num_attention_heads
    if any(block.get_submodule(family.attention).scaling != float(size) ** -0.5 for block in layout.blocks):
        return "attention is scaled otherwise"
    if len({getattr(block, "use_parallel_residual", False) for block in layout.blocks}) > 1:
        return "attention and MLP stand beside each other in some blocks only"
    rotary = getattr(getattr(model.base_model, "rotary_emb", None), "rope_type", "default")
    if rotary != "default":
        return f"its rotary positions are of the type {rotary}, which may follow the length of a row"
    if batch["input_ids"].shape[1] > LONGEST:
        return f"its rows are longer than {LONGEST} tokens"
    return None


def _difference(twin: Any, step: CompiledStep, batch: Batch, token_losses: TokenLosses) -> str | None:
    """What the compiled code finds otherwise than torch, for a copy of the model without dropout."""
    theirs = token_losses(stock_logits(twin, batch), batch["labels"]).sum()
    theirs.backward()
    expected = {name: weight.grad for name, weight in twin.named_parameters()}
    twin.zero_grad()
    ours = step.backward(batch, 1.0, 0)
    if not math.isclose(float(ours), theirs.item(), rel_tol=TOLERANCE):
        return "its loss differs"
    least = 1e-4 * max(float(gradient.norm()) for gradient in expected.values())
    for name, weight in twin.named_parameters():
        off = float((weight.grad - expected[name]).norm())
        if not off <= TOLERANCE * (float(expected[name].norm()) + least):
            return f"the gradient of {name} differs"
    return None
