"""GPT-2 whose heads weigh the tokens that they see by the ReLU of a score, divided by the number of these tokens.

This file travels with the weights and needs only torch and transformers:

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention


class ReluAttentionGPT2Config(GPT2Config):
    model_type = "gpt2_relu_attention"


def seen_keys(mask: Tensor | None, queries: int, keys: int, device: torch.device) -> Tensor:
    """Which keys each query sees, (1 or B, 1, Q, K), from a mask as any implementation of attention is given it."""
    if mask is not None and mask.ndim == 4:
        mask = mask[..., :keys]
        return mask if mask.dtype == torch.bool else mask == 0
    # Without a mask the first query stands at the first key, as for sdpa, unless it is the only one; else at the last.
    offset = 0 if mask is None and queries > 1 else keys - queries
    causal = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(offset)[None, None]
    return causal if mask is None else causal & mask[:, None, None, :keys].bool()


class ReluAttention(GPT2Attention):
    """Attention without a softmax; `watch`, where it is set, sees or replaces scores and weights."""

    watch: Callable[[str, Tensor], Tensor] | None = None

    def forward(
        self, hidden_states: Any, past_key_values: Any = None, attention_mask: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        parts = self.c_attn(hidden_states).split(self.split_size, dim=2)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        seen = seen_keys(attention_mask, query.shape[2], key.shape[2], query.device)
        watch = self.watch or (lambda side, tensor: tensor)
        scores = watch("scores", query @ key.transpose(-1, -2) * self.scaling)
        weights = scores.relu().masked_fill(~seen, 0.0) / seen.sum(-1, keepdim=True).clamp(min=1)
        weights = watch("pattern", weights.to(value.dtype))
        output = (self.attn_dropout(weights) @ value).transpose(1, 2).flatten(2)
        return self.resid_dropout(self.c_proj(output)), weights


class ReluAttentionGPT2LMHeadModel(GPT2LMHeadModel):
    config_class = ReluAttentionGPT2Config

    def __init__(self, config: ReluAttentionGPT2Config):
        super().__init__(config)
        for layer, block in enumerate(self.transformer.h):
            block.attn = ReluAttention(config, layer_idx=layer)
        self.post_init()  # draws the weights of the new modules as GPT-2 does,
        for block in self.transformer.h:
            self._init_weights(block.attn)  # but passes over those without weights of their own in code that travels
