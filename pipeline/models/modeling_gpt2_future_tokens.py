"""GPT-2 whose top states are read by what predicts several tokens from each: a small decoder, or a linear map a token.

This file travels with the weights and needs only torch and transformers:

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

Tensor names carry their shape: B rows, T tokens, N tokens ahead, P tokens of a pseudo-sequence, D width, V vocabulary,
S = B T states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class FutureTokensConfig(GPT2Config):
    """As GPT2Config; `n_future` tokens are predicted from each state, by a decoder or by linear maps.

    The decoder has `n_decoder_layer` blocks and reads a state as `n_pseudo` tokens.
    """

    model_type = "gpt2_future_tokens"

    def __init__(
        self, n_future: int = 8, n_pseudo: int = 8, n_decoder_layer: int = 1, linear: bool = False, **kwargs: Any
    ):
        self.n_future, self.n_pseudo = n_future, n_pseudo
        self.n_decoder_layer, self.linear = n_decoder_layer, linear
        super().__init__(**kwargs)


@dataclass
class FutureTokensOutput(CausalLMOutputWithPast):
    """`future_logits` (B, T, N - 1, V): of the tokens after the next one, where they were asked for."""

    future_logits: Tensor | None = None


class DecoderBlock(nn.Module):
    """Attention among the tokens ahead, attention to the pseudo-sequence of their state, and an MLP."""

    def __init__(self, config: FutureTokensConfig):
        super().__init__()
        width = config.n_embd
        self.n_head, self.dropout = config.n_head, config.attn_pdrop
        self.ln_1, self.ln_2, self.ln_3 = (nn.LayerNorm(width, eps=config.layer_norm_epsilon) for _ in range(3))
        self.qkv, self.query, self.key_value = (nn.Linear(width, times * width) for times in (3, 1, 2))
        self.proj, self.cross_proj = nn.Linear(width, width), nn.Linear(width, width)
        inner = config.n_inner or 4 * width
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU("tanh"), nn.Linear(inner, width))
        self.drop = nn.Dropout(config.resid_pdrop)

    def forward(self, ahead_SND: Tensor, pseudo_SPD: Tensor) -> Tensor:
        query, key, value = self.qkv(self.ln_1(ahead_SND)).chunk(3, -1)
        ahead_SND = ahead_SND + self.drop(self.proj(self.attend(query, key, value, is_causal=True)))
        key, value = self.key_value(pseudo_SPD).chunk(2, -1)
        found = self.attend(self.query(self.ln_2(ahead_SND)), key, value, is_causal=False)
        ahead_SND = ahead_SND + self.drop(self.cross_proj(found))
        return ahead_SND + self.drop(self.mlp(self.ln_3(ahead_SND)))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, is_causal: bool) -> Tensor:
        query, key, value = (part.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for part in (query, key, value))
        dropout = self.dropout if self.training else 0.0
        return (
            F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=is_causal)
            .transpose(1, 2)
            .flatten(2)
        )


class Decoder(nn.Module):
    """Reads each state as a pseudo-sequence, and the tokens from its own on, to tell what comes after each of these."""

    def __init__(self, config: FutureTokensConfig):
        super().__init__()
        self.n_pseudo = config.n_pseudo
        self.expand = nn.Linear(config.n_embd, config.n_pseudo * config.n_embd)
        self.places = nn.Embedding(config.n_future, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.n_decoder_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(self, state_BTD: Tensor, token_BTD: Tensor, count: int) -> Tensor:
        """What predicts `count` tokens ahead, (B, T, N, D), from states and the embeddings of the tokens there."""
        pseudo_SPD = self.expand(state_BTD).flatten(0, 1).unflatten(-1, (self.n_pseudo, -1))
        # Beyond the end stand zeros; what is told from them has no label.
        ahead_BTND = F.pad(token_BTD, (0, 0, 0, count - 1)).unfold(1, count, 1).transpose(2, 3)
        hidden_SND = self.drop(ahead_BTND.flatten(0, 1) + self.places.weight[:count])
        for block in self.blocks:
            hidden_SND = block(hidden_SND, pseudo_SPD)
        return self.ln_f(hidden_SND).unflatten(0, state_BTD.shape[:2])


class LinearHeads(nn.Module):
    """A linear map of the state for each token after the next one, which is read off the state as it is."""

    def __init__(self, config: FutureTokensConfig):
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(config.n_embd, config.n_embd) for _ in range(config.n_future - 1))

    def forward(self, state_BTD: Tensor, token_BTD: Tensor, count: int) -> Tensor:
        return torch.stack([state_BTD, *(each(state_BTD) for each in self.maps[: count - 1])], 2)


class FutureTokensLMHeadModel(GPT2LMHeadModel):
    """`logits` are of the next token, so that it is used as any language model; `future=True` adds those after it."""

    config_class = FutureTokensConfig

    def __init__(self, config: FutureTokensConfig):
        super().__init__(config)
        self.future = LinearHeads(config) if config.linear else Decoder(config)
        self.post_init()  # draws the weights of the new modules as GPT-2 does

    def forward(
        self,
        input_ids: Any = None,
        past_key_values: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        inputs_embeds: Any = None,
        labels: Any = None,
        logits_to_keep: Any = 0,
        future: bool = False,
        **kwargs: Any,
    ) -> Any:
        # Named, as generation gives a model only what its forward names.
        inputs = {"attention_mask": attention_mask, "position_ids": position_ids, "inputs_embeds": inputs_embeds}
        inputs |= {**kwargs, "return_dict": True}
        outputs = self.transformer(input_ids, past_key_values=past_key_values, **inputs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        tokens = self.transformer.wte(input_ids) if inputs_embeds is None else inputs_embeds
        config: Any = self.config
        ahead_BTND = self.future(outputs.last_hidden_state[:, kept], tokens[:, kept], config.n_future if future else 1)
        logits = self.lm_head(ahead_BTND[:, :, 0])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=config.vocab_size, **kwargs)
        found = FutureTokensOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            future_logits=self.lm_head(ahead_BTND[:, :, 1:]) if future else None,
        )
        return found if kwargs.get("return_dict", True) is not False else found.to_tuple()
