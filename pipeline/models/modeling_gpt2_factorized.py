"""GPT-2 whose token embedding is the product A B of a narrow table and a map to the width of the stream.

This file travels with the weights and needs only torch and transformers:

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel


class FactorizedGPT2Config(GPT2Config):
    """As GPT2Config, where `embedding_rank` is the number of columns of A."""

    model_type = "gpt2_factorized"

    def __init__(self, embedding_rank: int = 8, **kwargs: Any):
        self.embedding_rank = embedding_rank
        super().__init__(**kwargs)


class FactorizedEmbedding(nn.Embedding):
    """Rows of A B: A (V, R) is `weight`, and the transpose of B (D, R) is that of `projection`."""

    def __init__(self, words: int, rank: int, width: int):
        super().__init__(words, rank)
        self.projection = nn.Linear(rank, width, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        embedded: Tensor = self.projection(super().forward(input))
        return embedded


class FactorizedGPT2LMHeadModel(GPT2LMHeadModel):
    """GPT-2 with a FactorizedEmbedding; its output projection is a matrix of its own."""

    config_class = FactorizedGPT2Config

    def __init__(self, config: FactorizedGPT2Config):
        super().__init__(config)
        self.transformer.wte = FactorizedEmbedding(config.vocab_size, config.embedding_rank, config.hidden_size)
        self.post_init()  # draws the weights of the new modules as GPT-2 does
