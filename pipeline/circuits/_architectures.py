"""Where the modules of GPT-2 and GPT-NeoX are, and how their weights lie."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn


class Layout(NamedTuple):
    """Where the modules of an architecture are: in the base model, then in each block."""

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

    def missing(self, model: nn.Module) -> list[str]:
        """The modules that a model of this family has and this one lacks."""
        lacks = [name for name in (self.embed, self.blocks, self.final) if not hasattr(model, name)]
        if lacks:
            return lacks
        block = getattr(model, self.blocks)[0]
        return [f"{self.blocks}.0.{path}" for path in self[4:] if module_at(block, path) is None]


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
)  # fmt: skip


def module_at(module: nn.Module, path: str) -> Any:
    """The module below another, or None."""
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def token_rows(embedding: Any, count: int) -> Tensor:
    """The first rows of a token embedding as they enter the stream, (count, D); a factorized one has a projection."""
    rows: Tensor = embedding.weight[:count]
    projection = getattr(embedding, "projection", None)
    return rows if projection is None else projection(rows)


def linear_weight(module: Any) -> Tensor:
    """The weight of a linear map as (out, in), also of GPT-2's Conv1D, which stores it the other way round."""
    return module.weight if isinstance(module, nn.Linear) else module.weight.T
