"""GPT-2 with KV shifting attention (Xu et al. 2024, arXiv 2411.19574, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.models.base import Family
from pipeline.models.gpt2 import Gpt2

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Gpt2KvShift(Gpt2):
    """GPT-2 from scratch whose heads see a_1 K_t + a_2 K_(t-1) as the key of token t, and its value likewise.

    One layer can then do induction, for which plain attention takes two. It is trained by its own forward.
    """

    residual_family: ClassVar[Family | None] = "gpt2"

    def build(self, vocab_size: int) -> PreTrainedModel:
        from pipeline.models.modeling_gpt2_kv_shift import KVShiftGPT2Config, KVShiftGPT2LMHeadModel

        KVShiftGPT2Config.register_for_auto_class()
        KVShiftGPT2LMHeadModel.register_for_auto_class("AutoModelForCausalLM")
        return KVShiftGPT2LMHeadModel(KVShiftGPT2Config(**self.config(vocab_size)))
