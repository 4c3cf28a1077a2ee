"""Pythia with KV shifting attention (Xu et al. 2024, arXiv 2411.19574, section 3), whose own models rotate, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.models.base import Family
from pipeline.models.pythia import Pythia

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class PythiaKvShift(Pythia):
    """Pythia from scratch whose heads see a_1 K_t + a_2 K_(t-1) as the key of token t, and its value likewise.

    Keys are mixed before they are rotated. It is trained by its own forward.
    """

    residual_family: ClassVar[Family | None] = "gpt_neox"

    def build(self, vocab_size: int) -> PreTrainedModel:
        from pipeline.models.modeling_pythia_kv_shift import KVShiftPythiaConfig, KVShiftPythiaForCausalLM

        KVShiftPythiaConfig.register_for_auto_class()
        KVShiftPythiaForCausalLM.register_for_auto_class("AutoModelForCausalLM")
        return KVShiftPythiaForCausalLM(KVShiftPythiaConfig(**self.config(vocab_size)))
