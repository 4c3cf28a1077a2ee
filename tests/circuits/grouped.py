"""Small models of Llama's kind with fewer keys than queries, and what such a model computes, written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
)

from tests.circuits.small import VOCABULARY

SIZES = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "max_position_embeddings": 32}
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
# The heads of one: four of eight numbers, in two groups. Those of Qwen 3 are wider than the stream is divided.
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 12},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 3},
}


def grouped_model(kind: str, seed: int = 0) -> Any:
    """One by plain transformers, in eval mode, with large weights, and biases and norms unlike those of a fresh one."""
    torch.manual_seed(seed)
    own = {"num_attention_heads": 4, "initializer_range": 0.2}
    config = AutoConfig.for_model(kind, vocab_size=VOCABULARY, **SIZES, **own, **NO_TOKENS, **KINDS[kind])
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.1 * torch.randn_like(weight)
    return model


def in_doubles(model: Any) -> Any:
    """The model in float64 throughout: transformers has norms, and softmax in the open, in float32 whatever it is."""
    model.double().set_attn_implementation("sdpa")
    for module in [*model.modules()]:
        for name, norm in module.named_children():
            if type(norm).__name__.endswith("RMSNorm"):
                exact = nn.RMSNorm(len(norm.weight), eps=norm.variance_epsilon, dtype=torch.float64)
                exact.weight = norm.weight
                setattr(module, name, exact)
    return model


class WrittenOut:
    """The forward pass of a model with bare matrices; each reader's view of the stream may be moved alone.

    `moved[name]` (B, T, D) is added to what the reader of that name sees; readers are those of `Graph`, with a key and
    a value for each head, so that the heads of a group may differ. `written` has what each writer adds.
    """

    def __init__(self, model: Any, tokens: Tensor, moved: dict[str, Tensor] | None = None):
        moved, config = moved or {}, model.config
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        base, width = model.model, model.model.layers[0].self_attn.head_dim
        stream = base.embed_tokens(tokens)
        self.written = {"input": stream}
        length = tokens.shape[1]
        cos, sin = (part[0] for part in base.rotary_emb(stream, torch.arange(length)[None]))
        back = torch.arange(length)[:, None] - torch.arange(length)
        window = getattr(config, "sliding_window", None) or length
        hidden = (back < 0) | (back >= window)

        def turned(x: Tensor) -> Tensor:
            first, second = x.chunk(2, -1)
            return x * cos + torch.cat([-second, first], -1) * sin

        def seen(name: str) -> Tensor:
            return stream + moved[name] if name in moved else stream

        for number, layer in enumerate(base.layers):
            attention = layer.self_attn
            for head in range(heads):
                group = head * groups // heads
                made = []
                for part, place in (("q", head), ("k", group), ("v", group)):
                    linear, rows = getattr(attention, f"{part}_proj"), slice(place * width, (place + 1) * width)
                    x = layer.input_layernorm(seen(f"a{number}.h{head}<{part}>")) @ linear.weight[rows].T
                    x = x if linear.bias is None else x + linear.bias[rows]
                    norm = getattr(attention, f"{part}_norm", None)
                    made.append(x if norm is None else norm(x))
                q, k, v = turned(made[0]), turned(made[1]), made[2]
                scores = (q @ k.transpose(-1, -2) / width**0.5).masked_fill(hidden, -torch.inf)
                z = scores.softmax(-1) @ v
                out = attention.o_proj.weight[:, head * width : (head + 1) * width]
                self.written[f"a{number}.h{head}"] = z @ out.T
            stream = stream + sum(self.written[f"a{number}.h{head}"] for head in range(heads))
            x = layer.post_attention_layernorm(seen(f"m{number}"))
            mlp = layer.mlp
            self.written[f"m{number}"] = mlp.down_proj(nn.functional.silu(mlp.gate_proj(x)) * mlp.up_proj(x))
            stream = stream + self.written[f"m{number}"]
        self.logits = model.lm_head(base.norm(seen("logits")))
