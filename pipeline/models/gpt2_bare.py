"""The transformer of Nanda et al. 2023 (arXiv 2301.05217): GPT-2 without layer norms and attention biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.config.fields import param
from pipeline.models.base import Family
from pipeline.models.gpt2 import Gpt2

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Gpt2Bare(Gpt2):
    """GPT-2 from scratch without layer norms and attention biases, by default with the sizes of Nanda et al.

    Weights are drawn as theirs are: N(0, 1 / n_embd), and N(0, 1 / vocab_size) for the output projection, which is not
    tied.
    """

    forward_family: ClassVar[Family | None] = "gpt2"
    residual_family: ClassVar[Family | None] = "gpt2"
    unused: ClassVar[tuple[str, ...]] = ("initializer_range",)

    n_layer: int | None = param(1, "blocks", ge=1)
    n_embd: int | None = param(128, "width of the residual stream", ge=1)
    n_head: int | None = param(4, "attention heads", ge=1)
    n_positions: int = param(3, "learned positions", ge=1)
    dropout: float = param(0.0, "of embeddings, attention and residual branches", ge=0, lt=1)
    activation: Literal["gelu", "relu"] = param("relu", "of the MLP")
    tie_word_embeddings: bool = param(False, "the output projection is the token embedding")

    def build(self, vocab_size: int) -> PreTrainedModel:
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        from pipeline.models.modeling_gpt2_bare import BareGPT2Config, BareGPT2LMHeadModel

        BareGPT2Config.register_for_auto_class()
        BareGPT2LMHeadModel.register_for_auto_class("AutoModelForCausalLM")
        model = BareGPT2LMHeadModel(BareGPT2Config(**self.config(vocab_size)))
        for module in model.modules():
            if isinstance(module, (nn.Embedding, nn.Linear, Conv1D)):
                fan = vocab_size if module is model.lm_head else self.sizes["n_embd"]
                nn.init.normal_(module.weight, std=fan**-0.5)
        return model
