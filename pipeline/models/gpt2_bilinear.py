"""GPT-2 with bilinear MLPs (Pearce et al. 2024, arXiv 2410.08417, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.models.base import Family
from pipeline.models.gpt2 import Gpt2

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Gpt2Bilinear(Gpt2):
    """GPT-2 from scratch with MLPs P ((W x) * (V x)), without biases: `n_inner` products.

    What such an MLP does along a direction is a quadratic form of its input, which `circuits: {eigen: {}}` takes apart.
    It is trained by its own forward.
    """

    residual_family: ClassVar[Family | None] = "gpt2"
    unused: ClassVar[tuple[str, ...]] = ("activation",)

    def build(self, vocab_size: int) -> PreTrainedModel:
        from pipeline.models.modeling_gpt2_bilinear import BilinearGPT2Config, BilinearGPT2LMHeadModel

        BilinearGPT2Config.register_for_auto_class()
        BilinearGPT2LMHeadModel.register_for_auto_class("AutoModelForCausalLM")
        return BilinearGPT2LMHeadModel(BilinearGPT2Config(**self.config(vocab_size)))
