"""GPT-2 whose attention has a ReLU in place of the softmax (Guo et al. 2024, arXiv 2410.13835, section 2.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.models.base import Family
from pipeline.models.gpt2 import Gpt2

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Gpt2ReluAttention(Gpt2):
    """GPT-2 from scratch whose heads weigh tokens by relu(score) over how many they see, so that they need no sink.

    A head that has nothing to say looks nowhere. It is trained by its own forward.
    """

    residual_family: ClassVar[Family | None] = "gpt2"

    def build(self, vocab_size: int) -> PreTrainedModel:
        from pipeline.models.modeling_gpt2_relu_attention import (
            ReluAttentionGPT2Config,
            ReluAttentionGPT2LMHeadModel,
        )

        ReluAttentionGPT2Config.register_for_auto_class()
        ReluAttentionGPT2LMHeadModel.register_for_auto_class("AutoModelForCausalLM")
        return ReluAttentionGPT2LMHeadModel(ReluAttentionGPT2Config(**self.config(vocab_size)))
