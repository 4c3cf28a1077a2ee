"""GPT-NeoX whose heads attend to mixtures of the keys and values of a token and of the one before it.

Keys are mixed before they are rotated. This file travels with the weights and needs only torch and transformers:

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXAttention, apply_rotary_pos_emb


class KVShiftPythiaConfig(GPTNeoXConfig):
    model_type = "pythia_kv_shift"


class MixingCache:
    """Stands between attention and its cache, or none: rotated keys and values go in, and come out mixed.

    The cache holds them unmixed, so that what reorders or cuts it need not know of this.
    """

    def __init__(self, cache: Any, attention: MixingAttention, mask: Tensor | None):
        self.cache, self.attention, self.mask = cache, attention, mask

    def update(self, key: Tensor, value: Tensor, layer: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Mixed keys and values (B, H, T, E) of all tokens so far, from those of the new ones."""
        if self.cache is not None:
            key, value = self.cache.update(key, value, layer, *args, **kwargs)
        before = [key, value]
        if self.mask is not None and self.mask.ndim == 4:  # padding on the left comes before nothing
            last_BK = self.mask[:, 0, -1, : key.shape[-2]]
            seen = (last_BK if last_BK.dtype == torch.bool else last_BK == 0)[:, None, :, None]
            before = [states.masked_fill(~seen, 0.0) for states in before]
        old_key, old_value = (F.pad(states, (0, 0, 1, -1)) for states in before)
        own_key, previous_key = self.attention.key_shift[..., None, None].to(key.dtype)
        own_value, previous_value = self.attention.value_shift[..., None, None].to(value.dtype)
        # The key before was rotated to its own place, one short of where it is used.
        key = own_key * key + previous_key * self.attention.one_on(old_key)
        return key, own_value * value + previous_value * old_value


class MixingAttention(GPTNeoXAttention):
    """Four numbers a head, drawn from U(0, 1) so that those of a token and of the one before it add up to 1."""

    key_shift: nn.Parameter
    value_shift: nn.Parameter

    def __init__(self, config: GPTNeoXConfig, layer_idx: int):
        super().__init__(config, layer_idx=layer_idx)
        for name in ("key_shift", "value_shift"):
            own = torch.rand(config.num_attention_heads)
            setattr(self, name, nn.Parameter(torch.stack([own, 1 - own])))

    def one_on(self, key_BHTE: Tensor) -> Tensor:
        """Keys rotated by one position more."""
        place = torch.arange(0, self.rotary_ndims, 2, device=key_BHTE.device, dtype=torch.float32)
        angle = (self.config.rope_parameters["rope_theta"] ** -(place / self.rotary_ndims)).repeat(2)[None, None]
        cos, sin = angle.cos().to(key_BHTE.dtype), angle.sin().to(key_BHTE.dtype)
        return apply_rotary_pos_emb(key_BHTE, key_BHTE, cos, sin)[0]

    def forward(
        self, hidden_states: Any, attention_mask: Any = None, layer_past: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        cache: Any = MixingCache(layer_past, self, attention_mask)
        return super().forward(hidden_states, attention_mask, cache, *args, **kwargs)


class KVShiftPythiaForCausalLM(GPTNeoXForCausalLM):
    config_class = KVShiftPythiaConfig

    def __init__(self, config: KVShiftPythiaConfig):
        super().__init__(config)
        for layer, block in enumerate(self.gpt_neox.layers):
            block.attention = MixingAttention(config, layer)
        self.post_init()  # draws the weights of the new modules as GPT-NeoX does
