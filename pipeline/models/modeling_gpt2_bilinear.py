"""GPT-2 whose MLPs multiply two linear maps of their input, element by element, and have no other nonlinearity.

This file travels with the weights and needs only torch and transformers:

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP


class BilinearGPT2Config(GPT2Config):
    model_type = "gpt2_bilinear"


class Product(nn.Module):
    """The product of the two halves of the last dimension, (..., 2M) to (..., M)."""

    def forward(self, both: Tensor) -> Tensor:
        left, right = both.chunk(2, dim=-1)
        return left * right


class BilinearMLP(GPT2MLP):
    """P ((W x) * (V x)) without biases; W and V lie side by side in `c_fc`."""

    def __init__(self, width: int, config: GPT2Config):
        super().__init__(2 * width, config)
        self.c_proj = type(self.c_proj)(config.hidden_size, width)
        self.act = Product()
        for part in (self.c_fc, self.c_proj):
            part.bias.requires_grad_(False)  # they stay zero, so that GPT-2's code runs unchanged


class BilinearGPT2LMHeadModel(GPT2LMHeadModel):
    config_class = BilinearGPT2Config

    def __init__(self, config: BilinearGPT2Config):
        super().__init__(config)
        for block in self.transformer.h:
            block.mlp = BilinearMLP(config.n_inner or 4 * config.hidden_size, config)
        self.post_init()  # draws the weights of the new modules as GPT-2 does,
        for block in self.transformer.h:
            self._init_weights(block.mlp)  # but passes over those without weights of their own in code that travels
