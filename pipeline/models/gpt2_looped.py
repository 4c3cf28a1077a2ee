"""GPT-2 whose blocks run `n_loops` times with shared weights: the parameter sharing of Wang et al. 2024.

With a discrete channel between loops after DiscoLoop (2026, arXiv 2607.00341).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.config.fields import param
from pipeline.models.base import Family
from pipeline.models.gpt2 import Gpt2
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Gpt2Looped(Gpt2):
    """GPT-2 from scratch with `n_layer` blocks, run `n_loops` times over."""

    forward_family: ClassVar[Family | None] = "gpt2"
    residual_family: ClassVar[Family | None] = "gpt2"

    n_loops: int = param(2, "times that the stack of n_layer blocks runs", ge=1)
    positions: bool = param(True, "learned positions; false: none, as for prompts longer than those that are trained")
    discrete: float = param(
        0.0, "how much of the tokens that a state points to is added to it between loops (DiscoLoop); 0: nothing", ge=0
    )
    temperature: float = param(1.0, "of the softmax over those tokens", gt=0)
    residual_init: Literal["stored", "run"] = param(
        "stored", "blocks N in initializer_range / sqrt(2 N) of residual projections: stored, as in the paper, or run"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature != 1 and not self.discrete:
            raise ParameterError("temperature", "changes nothing without discrete")

    def short_forward(self, model: PreTrainedModel) -> str | None:
        return None if self.discrete else super().short_forward(model)

    def known_edges(self) -> str | None:
        return None if self.discrete else super().known_edges()

    def build(self, vocab_size: int) -> PreTrainedModel:
        import torch

        from pipeline.models.modeling_gpt2_looped import LoopedGPT2Config, LoopedGPT2LMHeadModel

        LoopedGPT2Config.register_for_auto_class()
        LoopedGPT2LMHeadModel.register_for_auto_class("AutoModelForCausalLM")
        sizes = self.config(vocab_size)
        stored, run = sizes["n_layer"], sizes["n_layer"] * self.n_loops
        depth = {"stored": stored, "run": run}[self.residual_init]
        more = {"residual_depth": depth, "discrete": self.discrete, "discrete_temperature": self.temperature}
        config = LoopedGPT2Config(n_loops=self.n_loops, **more, **{**sizes, "n_layer": run})
        model = LoopedGPT2LMHeadModel(config)
        if not self.positions:
            # Zeros that are not trained, so that GPT-2's code runs unchanged.
            positions = model.transformer.wpe.weight.requires_grad_(False)
            with torch.no_grad():
                positions.zero_()
        return model
