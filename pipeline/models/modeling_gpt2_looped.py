"""GPT-2 that runs one stack of blocks several times, with the same weights each time.

This file travels with the weights and needs only torch and transformers:

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel


class LoopedGPT2Config(GPT2Config):
    """As GPT2Config, where `n_layer` counts the blocks that run: `n_loops` passes over `n_layer / n_loops` blocks.

    `residual_depth` is the number of blocks N in initializer_range / sqrt(2 N), the standard deviation of the initial
    projections into the residual stream; None: the blocks that are stored, `n_layer / n_loops`. `discrete` is how much
    of the tokens that a state points to is added to it between loops, `discrete_temperature` that of the softmax over
    them.
    """

    model_type = "gpt2_looped"

    def __init__(
        self,
        n_loops: int = 2,
        residual_depth: int | None = None,
        discrete: float = 0.0,
        discrete_temperature: float = 1.0,
        **kwargs: Any,
    ):
        self.n_loops, self.residual_depth = n_loops, residual_depth
        self.discrete, self.discrete_temperature = discrete, discrete_temperature
        super().__init__(**kwargs)


class LoopedBlocks(nn.ModuleList):
    """Blocks that are iterated `n_loops` times over, and stored once."""

    def __init__(self, blocks: nn.ModuleList, n_loops: int):
        super().__init__(blocks)
        self.n_loops = n_loops

    def __iter__(self) -> Iterator[nn.Module]:
        for number in range(self.n_loops * len(self)):
            block: Any = self[number % len(self)]
            block.attn.layer_idx = number  # its place in a key-value cache, which has one for every block that runs
            yield block


class LoopedGPT2LMHeadModel(GPT2LMHeadModel):
    """GPT-2 with a LoopedBlocks stack; embeddings are added once, and the final norm comes once, at the end."""

    config_class = LoopedGPT2Config

    def __init__(self, config: LoopedGPT2Config):
        super().__init__(config)
        once = config.n_layer // config.n_loops
        blocks: Any = self.transformer.h[:once]
        self.transformer.h = LoopedBlocks(blocks, config.n_loops)
        # GPT2Model has drawn them for config.n_layer blocks; a scaled normal number is one of the wanted deviation.
        factor = math.sqrt(config.n_layer / (config.residual_depth or once))
        with torch.no_grad():
            for block in blocks:
                for part in (block.attn, block.mlp):
                    part.c_proj.weight.mul_(factor)
        if config.discrete:
            blocks[0].register_forward_pre_hook(self._between_loops)

    def _between_loops(self, block: Any, inputs: Any) -> Any:
        """The states with the tokens that they point to added, where a loop follows another."""
        if not block.attn.layer_idx:
            return None
        config: Any = self.config
        return (with_tokens(self, inputs[0], config.discrete, config.discrete_temperature), *inputs[1:])


def with_tokens(model: Any, states: torch.Tensor, share: float, temperature: float) -> torch.Tensor:
    """States (..., D) plus a share of the expected embedding of the token that each points to, scaled to RMS 1."""
    chances = (model.lm_head(model.transformer.ln_f(states)) / temperature).softmax(-1)
    return states + share * nn.functional.rms_norm(chances @ model.transformer.wte.weight, states.shape[-1:])
