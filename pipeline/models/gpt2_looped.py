"""GPT-2 whose blocks run `n_loops` times with shared weights: the parameter sharing of Wang et al. 2024."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.models.gpt2 import Gpt2
from pipeline.parameters import param

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Gpt2Looped(Gpt2):
    """GPT-2 from scratch with `n_layer` blocks, run `n_loops` times over."""

    n_loops: int = param(2, "times that the stack of n_layer blocks runs", ge=1)

    def build(self, vocab_size: int) -> PreTrainedModel:
        from pipeline.models.modeling_gpt2_looped import LoopedGPT2Config, LoopedGPT2LMHeadModel

        LoopedGPT2Config.register_for_auto_class()
        LoopedGPT2LMHeadModel.register_for_auto_class("AutoModelForCausalLM")
        sizes = self.config(vocab_size)
        return LoopedGPT2LMHeadModel(
            LoopedGPT2Config(n_loops=self.n_loops, **{**sizes, "n_layer": sizes["n_layer"] * self.n_loops})
        )
