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
from transformers import GPT2LMHeadModel, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from pipeline.data.rows import Batch
from pipeline.kernels.compiled import ACTIVATIONS, CompiledStep
from pipeline.kernels.forward import stock_logits
from pipeline.kernels.forward_check import twin_of
from pipeline.kernels.native_code import NotCompiledError, load
from pipeline.kernels.onednn import QUICK

TOLERANCE = 1e-3  # of gradients, as vectors: far above the rounding of float32, and below another computation's
LONGEST = 32  # tokens of a row, beyond which attention is better done by products
TokenLosses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
OF_BLOCK = (
    *("ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "attn.c_proj.bias"),
    *("ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"),
)


def compiled_step(
    model: PreTrainedModel, batch: Batch, loss: str, token_losses: TokenLosses
) -> tuple[CompiledStep | None, str | None]:
    """The compiled update of a model, or why there is none.

    Args:
        model: Whose forward is found to be GPT-2's own (`fast_logits`).
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
    if type(model) is not GPT2LMHeadModel:
        return f"{type(model).__name__} is not GPT-2"
    weights = dict(model.named_parameters())
    if [*weights] != _names(model):
        return "it has other weights than GPT-2"
    blocks: list[Any] = list(model.transformer.h)
    for name, weight in weights.items():
        if not (weight.requires_grad and weight.is_contiguous() and weight.dtype == torch.float32 and weight.is_cpu):
            return f"{name} is not trained, or not in float32 on the CPU"
    for name, module in model.named_modules():
        kind = QUICK.get(nn.Linear) if name == "lm_head" else QUICK.get(Conv1D)
        if name.endswith((".c_attn", ".c_fc", ".c_proj", "lm_head")) and type(module) not in (kind, nn.Linear, Conv1D):
            return f"{name} is a {type(module).__name__}"
        if isinstance(module, nn.Embedding) and (type(module) is not nn.Embedding or module.max_norm is not None):
            return f"{name} is no plain embedding"
    if model.config.activation_function not in ACTIVATIONS or any(
        type(block.mlp.act) is not type(ACT2FN[model.config.activation_function]) for block in blocks
    ):
        return f"its activation is none of {', '.join(ACTIVATIONS)}"
    if any(block.attn.scaling != float(block.attn.head_dim) ** -0.5 for block in blocks):
        return "attention is scaled otherwise"
    if batch["input_ids"].shape[1] > LONGEST:
        return f"its rows are longer than {LONGEST} tokens"
    return None


def _names(model: Any) -> list[str]:
    blocks = [f"transformer.h.{number}.{name}" for number in range(len(model.transformer.h)) for name in OF_BLOCK]
    head = [] if model.lm_head.weight is model.transformer.wte.weight else ["lm_head.weight"]
    return [
        "transformer.wte.weight", "transformer.wpe.weight", *blocks,
        "transformer.ln_f.weight", "transformer.ln_f.bias", *head,
    ]  # fmt: skip


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
