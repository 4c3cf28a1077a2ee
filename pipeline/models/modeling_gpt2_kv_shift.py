"""GPT-2 whose heads attend to mixtures of the keys and values of a token and of the one before it.

This file travels with the weights and needs only torch and transformers:

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention


class KVShiftGPT2Config(GPT2Config):
    model_type = "gpt2_kv_shift"


class ShiftedCache:
    """Stands between attention and its cache, or none: keys and values go in as projected, and come out mixed.

    The cache holds them as projected, so that what reorders or cuts it need not know of this.
    """

    def __init__(self, cache: Any, attention: ShiftedAttention, mask: Tensor | None):
        self.cache, self.attention, self.mask = cache, attention, mask

    def update(self, key: Tensor, value: Tensor, layer: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Mixed keys and values (B, H, T, E) of all tokens so far, from those of the new ones."""
        if self.cache is not None:
            key, value = self.cache.update(key, value, layer, *args, **kwargs)
        seen = None
        if self.mask is not None and self.mask.ndim == 4:  # padding on the left comes before nothing
            last_BK = self.mask[:, 0, -1, : key.shape[-2]]
            seen = (last_BK if last_BK.dtype == torch.bool else last_BK == 0)[:, None, :, None]
        return mixed(key, self.attention.key_shift, seen), mixed(value, self.attention.value_shift, seen)


def mixed(states_BHTE: Tensor, shift_2H: Tensor, seen_B1T1: Tensor | None) -> Tensor:
    """shift[0] times the states of each token, and shift[1] times those of the token before; zero before the first."""
    before = states_BHTE if seen_B1T1 is None else states_BHTE.masked_fill(~seen_B1T1, 0.0)
    own, previous = shift_2H[..., None, None].to(states_BHTE.dtype)
    return own * states_BHTE + previous * F.pad(before, (0, 0, 1, -1))


class ShiftedAttention(GPT2Attention):
    """Four numbers a head, drawn from U(0, 1) so that those of a token and of the one before it add up to 1."""

    key_shift: nn.Parameter
    value_shift: nn.Parameter

    def __init__(self, config: GPT2Config, layer_idx: int):
        super().__init__(config, layer_idx=layer_idx)
        for name in ("key_shift", "value_shift"):
            own = torch.rand(self.num_heads)
            setattr(self, name, nn.Parameter(torch.stack([own, 1 - own])))

    def forward(
        self, hidden_states: Any, past_key_values: Any = None, attention_mask: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        cache: Any = ShiftedCache(past_key_values, self, attention_mask)
        return super().forward(hidden_states, cache, attention_mask, *args, **kwargs)


class KVShiftGPT2LMHeadModel(GPT2LMHeadModel):
    config_class = KVShiftGPT2Config

    def __init__(self, config: KVShiftGPT2Config):
        super().__init__(config)
        for layer, block in enumerate(self.transformer.h):
            block.attn = ShiftedAttention(config, layer)
        self.post_init()  # draws the weights of the new modules as GPT-2 does
