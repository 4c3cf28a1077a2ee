"""GPT-2 whose blocks run `n_loops` times with shared weights: the parameter sharing of Wang et al. 2024."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.config.fields import param
from pipeline.models.base import Family
from pipeline.models.gpt2 import Gpt2

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Gpt2Looped(Gpt2):
    """GPT-2 from scratch with `n_layer` blocks, run `n_loops` times over."""

    forward_family: ClassVar[Family | None] = "gpt2"
    residual_family: ClassVar[Family | None] = "gpt2"

    n_loops: int = param(2, "times that the stack of n_layer blocks runs", ge=1)
    positions: bool = param(True, "learned positions; false: none, as for prompts longer than those that are trained")
    residual_init: Literal["stored", "run"] = param(
        "stored", "blocks N in initializer_range / sqrt(2 N) of residual projections: stored, as in the paper, or run"
    )

    def build(self, vocab_size: int) -> PreTrainedModel:
        import torch

        from pipeline.models.modeling_gpt2_looped import LoopedGPT2Config, LoopedGPT2LMHeadModel

        LoopedGPT2Config.register_for_auto_class()
        LoopedGPT2LMHeadModel.register_for_auto_class("AutoModelForCausalLM")
        sizes = self.config(vocab_size)
        stored, run = sizes["n_layer"], sizes["n_layer"] * self.n_loops
        depth = {"stored": stored, "run": run}[self.residual_init]
        config = LoopedGPT2Config(n_loops=self.n_loops, residual_depth=depth, **{**sizes, "n_layer": run})
        model = LoopedGPT2LMHeadModel(config)
        if not self.positions:
            # Zeros that are not trained, so that GPT-2's code runs unchanged.
            positions = model.transformer.wpe.weight.requires_grad_(False)
            with torch.no_grad():
                positions.zero_()
        return model
