"""GPT-2 without layer norms and without biases in attention.

This file travels with the weights and needs only torch and transformers:

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel


class BareGPT2Config(GPT2Config):
    model_type = "gpt2_bare"


class BareGPT2LMHeadModel(GPT2LMHeadModel):
    """Attention biases stay in the weights, as zeros that are not trained, so that GPT-2's code runs unchanged."""

    config_class = BareGPT2Config

    def __init__(self, config: BareGPT2Config):
        super().__init__(config)
        body: Any = self.transformer
        body.ln_f = nn.Identity()
        for block in body.h:
            block.ln_1 = block.ln_2 = nn.Identity()
            block.attn.c_attn.bias.requires_grad_(False)
            block.attn.c_proj.bias.requires_grad_(False)
