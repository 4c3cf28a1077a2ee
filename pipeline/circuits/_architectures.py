"""Where the modules of GPT-2, GPT-NeoX and Llama are, and how their weights lie."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Layout(NamedTuple):
    """Where the modules of an architecture are: in the base model, then in each block.

    Queries, keys and values are made by one module, `qkv`, or by three; `mlp_up` is what the MLP's neurons are
    multiplied by, where it is gated. What an architecture does not have is an empty string.
    """

    name: str
    blocks: str
    embed: str
    final: str
    ln1: str
    attention: str
    qkv: str
    proj: str
    ln2: str
    mlp: str
    mlp_in: str
    mlp_out: str
    q: str = ""
    k: str = ""
    v: str = ""
    mlp_up: str = ""

    def missing(self, model: nn.Module) -> list[str]:
        """The modules that a model of this family has and this one lacks."""
        lacks = [name for name in (self.embed, self.blocks, self.final) if not hasattr(model, name)]
        if lacks:
            return lacks
        block = getattr(model, self.blocks)[0]
        return [f"{self.blocks}.0.{path}" for path in self[4:] if path and module_at(block, path) is None]


LAYOUTS = (
    Layout(
        "GPT-2", "h", "wte", "ln_f", "ln_1", "attn", "attn.c_attn", "attn.c_proj", "ln_2", "mlp", "mlp.c_fc",
        "mlp.c_proj",
    ),
    Layout(
        "GPT-NeoX", "layers", "embed_in", "final_layer_norm", "input_layernorm", "attention",
        "attention.query_key_value", "attention.dense", "post_attention_layernorm", "mlp", "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
    ),
    Layout(  # also Mistral's and Qwen's
        "Llama", "layers", "embed_tokens", "norm", "input_layernorm", "self_attn", "", "self_attn.o_proj",
        "post_attention_layernorm", "mlp", "mlp.gate_proj", "mlp.down_proj", "self_attn.q_proj", "self_attn.k_proj",
        "self_attn.v_proj", "mlp.up_proj",
    ),
)  # fmt: skip


def module_at(module: nn.Module, path: str) -> Any:
    """The module below another, or None."""
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def token_rows(embedding: Any, count: int) -> Tensor:
    """What the first tokens are embedded as, (count, D), also where that is more than a row of a table."""
    rows: Tensor = embedding.forward(torch.arange(count, device=embedding.weight.device))  # past the hooks
    return rows


def is_centred(norm: Any) -> bool:
    """Whether a norm takes off the mean, as LayerNorm does and RMSNorm does not."""
    return isinstance(norm, nn.LayerNorm)


def epsilon(norm: Any) -> float:
    """What a norm adds to the mean square; libraries name it otherwise."""
    found = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    return torch.finfo(norm.weight.dtype).eps if found is None else float(found)


def gain(norm: Any) -> Tensor | None:
    """What a norm multiplies the normed stream by, (D,); None where it does not.

    Some RMSNorms multiply by their weight, and others by it and 1: what one makes of ones says which.
    """
    weight = getattr(norm, "weight", None)
    if weight is None or is_centred(norm):
        return weight
    with torch.no_grad():
        return norm.forward(torch.ones_like(weight)) * (1 + epsilon(norm)) ** 0.5


def linear_weight(module: Any) -> Tensor:
    """The weight of a linear map as (out, in), also of GPT-2's Conv1D, which stores it the other way round."""
    return module.weight if isinstance(module, nn.Linear) else module.weight.T
