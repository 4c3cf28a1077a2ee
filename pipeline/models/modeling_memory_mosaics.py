"""A stack of associative memories in the place of attention and MLPs: Memory Mosaics.

This file travels with the weights and needs only torch and transformers:

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

Tensor names carry their shape: B rows, H heads, T tokens so far, Q of them that are computed now, E width of a head, D
width of the residual stream, M memories of a head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

STORED = 10.0  # scales and decays are stored as a tenth, so that they move ten times as far in a step
LARGEST = 5.0  # log of the largest scale of keys


class MemoryMosaicsConfig(GPT2Config):
    """As GPT2Config, where `n_layer` counts memories, two a block: in turn contextual and persistent ones.

    `n_memories` is how many pairs of a key and a value each head of a persistent memory holds.
    """

    model_type = "memory_mosaics"

    def __init__(self, n_memories: int = 2688, **kwargs: Any):
        self.n_memories = n_memories
        super().__init__(**kwargs)


def seen_keys(mask: Tensor | None, queries: int, keys: int, device: torch.device) -> Tensor:
    """Which tokens stand at or before each query, (1 or B, Q, T), from a mask as attention is given it."""
    if mask is not None and mask.ndim == 4:
        mask = mask[:, 0, :, :keys]
        return mask if mask.dtype == torch.bool else mask == 0
    # Without a mask the first query stands at the first key, unless it is the only one; else the last at the last.
    offset = 0 if mask is None and queries > 1 else keys - queries
    causal = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(offset)[None]
    return causal if mask is None else causal & mask[:, None, :keys].bool()


def averaged(states_BHTE: Tensor, decay_H: Tensor) -> Tensor:
    """The sum over all tokens up to each of exp(-decay x distance) x state."""
    place_T = torch.arange(states_BHTE.shape[2], device=states_BHTE.device)
    distance_TT = (place_T[:, None] - place_T).clamp(min=0)
    weight_HTT = (-decay_H[:, None, None] * distance_TT).exp().tril().to(states_BHTE.dtype)
    return torch.einsum("hts,bhse->bhte", weight_HTT, states_BHTE)


class Keys(nn.Module):
    """Keys: leaky averages of a projection, as long as a learned scale says. No position enters but by the decay.

    The factor by which the paper normalizes an average is lost in its norm, and not computed.
    """

    def __init__(self, config: MemoryMosaicsConfig, power: float):
        super().__init__()
        self.power = power
        self.proj = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.decay = nn.Parameter(torch.linspace(0.5, 5, config.n_head) / STORED)
        self.scale = nn.Parameter(torch.full((config.n_head,), 1 / STORED))

    def forward(self, raw_BHTE: Tensor, seen_BQT: Tensor) -> Tensor:
        """Keys (B, H, T, E) from the projections of all tokens; padding on the left comes before nothing."""
        raw_BHTE = raw_BHTE.masked_fill(~seen_BQT[:, None, -1, :, None], 0.0)
        average_BHTE = averaged(raw_BHTE, STORED * self.decay.abs())
        scale_H = (STORED * self.power * self.scale).clamp(max=LARGEST).exp()
        return F.normalize(average_BHTE, dim=-1) * scale_H[:, None, None].to(average_BHTE.dtype)


def at_queries(keys_BHTE: Tensor, seen_BQT: Tensor) -> Tensor:
    """The keys of the tokens that are computed now, (B, H, Q, E): each is the last one that its query sees."""
    if seen_BQT.shape[1] == keys_BHTE.shape[2]:
        return keys_BHTE
    return torch.take_along_dim(keys_BHTE, last_seen(seen_BQT)[:, None, :, None], 2)


def last_seen(seen_BQT: Tensor) -> Tensor:
    """The place of the last token that each query sees, (B, Q)."""
    return (seen_BQT * torch.arange(seen_BQT.shape[2], device=seen_BQT.device)).amax(-1)


class Memory(GPT2Block):
    """A norm, an associative memory, and the way back to the residual stream; to transformers it is a block of GPT-2.

    A cache holds projections as they are, so that what reorders or cuts it need not know of leaky averages.
    """

    power = 1.0  # of the scale of its keys

    def __init__(self, config: MemoryMosaicsConfig, layer: int):
        super(GPT2Block, self).__init__()
        self.layer, self.n_head, self.dropout = layer, config.n_head, config.attn_pdrop
        self.ln = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.keys = Keys(config, self.power)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(
        self, hidden_states: Any, past_key_values: Any = None, attention_mask: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        normed = self.ln(hidden_states)
        raw_BHTE, value_BHTE = self.heads(self.keys.proj(normed)), self.values(normed)
        if past_key_values is not None:
            raw_BHTE, value_BHTE = past_key_values.update(raw_BHTE, value_BHTE, self.layer)
        seen_BQT = seen_keys(attention_mask, normed.shape[1], raw_BHTE.shape[2], normed.device)
        found_BHQE = self.recalled(self.keys(raw_BHTE, seen_BQT), value_BHTE, seen_BQT)
        return hidden_states + self.resid_dropout(self.c_proj(found_BHQE.transpose(1, 2).flatten(2)))

    def heads(self, states_BTD: Tensor) -> Tensor:
        return states_BTD.unflatten(-1, (self.n_head, -1)).transpose(1, 2)

    def values(self, normed_BTD: Tensor) -> Tensor:
        """What of the tokens is kept beside the projections of their keys, (B, H, T, E or 0)."""
        raise AssertionError

    def recalled(self, keys_BHTE: Tensor, value_BHTE: Tensor, seen_BQT: Tensor) -> Tensor:
        """What the memory holds for the keys of the tokens that are computed now, (B, H, Q, E)."""
        raise AssertionError

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=1.0)


class ContextualMemory(Memory):
    """Holds for the key of each earlier token a mixture of that token and of the one after it."""

    def __init__(self, config: MemoryMosaicsConfig, layer: int):
        super().__init__(config, layer)
        self.value_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.own = nn.Parameter(torch.rand(config.n_head))
        self.value_scale = nn.Parameter(torch.full((config.n_head,), -0.5 / STORED))

    def values(self, normed_BTD: Tensor) -> Tensor:
        return self.heads(self.value_proj(normed_BTD))

    def recalled(self, keys_BHTE: Tensor, value_BHTE: Tensor, seen_BQT: Tensor) -> Tensor:
        own, scale = (part[:, None, None].to(keys_BHTE.dtype) for part in (self.own, (STORED * self.value_scale).exp()))
        mixed_BHTE = own * value_BHTE + (1 - own) * F.pad(value_BHTE, (0, 0, -1, 1))
        # The token itself has no next one yet, and the first of all has nothing to recall.
        place_T = torch.arange(seen_BQT.shape[2], device=seen_BQT.device)
        earlier_BQT = (seen_BQT & (place_T < last_seen(seen_BQT)[..., None]))[:, None]
        some_BQ1 = earlier_BQT.any(-1, keepdim=True)
        queries_BHQE = at_queries(keys_BHTE, seen_BQT)
        found_BHQE = self.attend(queries_BHQE, keys_BHTE, F.normalize(mixed_BHTE, dim=-1), earlier_BQT | ~some_BQ1)
        return scale * found_BHQE * some_BQ1


class PersistentMemory(Memory):
    """Holds pairs of keys and values that are learned, for all texts alike."""

    power = 2.0  # as the keys that are learned have no scale

    def __init__(self, config: MemoryMosaicsConfig, layer: int):
        super().__init__(config, layer)
        width = config.n_embd // config.n_head
        for name in ("memory_keys", "memory_values"):
            drawn = torch.randn(config.n_head, config.n_memories, width) / math.sqrt(width)
            setattr(self, name, nn.Parameter(drawn))
        self.value_scale = nn.Parameter(torch.full((config.n_head,), -0.5 / STORED))

    memory_keys: nn.Parameter
    memory_values: nn.Parameter

    def values(self, normed_BTD: Tensor) -> Tensor:
        return self.heads(normed_BTD)[..., :0]

    def recalled(self, keys_BHTE: Tensor, value_BHTE: Tensor, seen_BQT: Tensor) -> Tensor:
        query_BHQE = at_queries(keys_BHTE, seen_BQT)
        # All rows ask one memory, as queries of one row.
        query_HNE = query_BHQE.transpose(0, 1).flatten(1, 2)
        key_HME, value_HME, scale_H = (
            part.to(query_HNE.dtype)
            for part in (self.memory_keys, self.memory_values, (STORED * self.value_scale).exp())
        )
        found_HNE = self.attend(query_HNE[None], key_HME[None], value_HME[None], None)[0]
        found_BHQE = found_HNE.unflatten(1, (len(query_BHQE), -1)).transpose(0, 1)
        return scale_H[:, None, None] * found_BHQE


class NoPositions(nn.Module):
    def forward(self, position_ids: Tensor) -> Tensor:
        return torch.zeros((), device=position_ids.device)


class MemoryMosaicsLMHeadModel(GPT2LMHeadModel):
    config_class = MemoryMosaicsConfig

    def __init__(self, config: MemoryMosaicsConfig):
        super().__init__(config)
        body: Any = self.transformer
        body.wpe = NoPositions()
        for layer in range(config.n_layer):
            body.h[layer] = (PersistentMemory if layer % 2 else ContextualMemory)(config, layer)
        self.post_init()  # draws the weights of the new modules as GPT-2 does
        deviation = config.initializer_range / math.sqrt(config.n_layer)
        for memory in body.h:
            nn.init.normal_(memory.c_proj.weight, std=deviation)
