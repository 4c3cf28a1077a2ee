"""GPT-2 that predicts several tokens from each top state (Walker 2024, arXiv 2410.18160)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.config.fields import param
from pipeline.models.base import Family
from pipeline.models.gpt2 import Gpt2

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Gpt2FutureTokens(Gpt2):
    """GPT-2 from scratch, each top state of which a small decoder reads to predict the next `n_future` tokens.

    The state is expanded linearly to a pseudo-sequence, to which the decoder attends while it reads the token of the
    state and those after it. So the state has to hold what the next tokens are about. Linear heads, one a token, are
    the plain form of it (Gloeckle et al. 2024, arXiv 2404.19737). Train with `objective: {name: future_tokens}`. It is
    trained by its own forward, as nothing past the top states is GPT-2's.
    """

    residual_family: ClassVar[Family | None] = None

    n_future: int = param(8, "tokens that are predicted from each state", ge=2)
    heads: Literal["decoder", "linear"] = param("decoder", "what predicts them from a state")
    n_pseudo: int = param(8, "tokens that the decoder reads a state as; linear heads have none", ge=1)
    n_decoder_layer: int = param(1, "blocks of the decoder; linear heads have none", ge=1)

    def build(self, vocab_size: int) -> PreTrainedModel:
        from pipeline.models.modeling_gpt2_future_tokens import FutureTokensConfig, FutureTokensLMHeadModel

        FutureTokensConfig.register_for_auto_class()
        FutureTokensLMHeadModel.register_for_auto_class("AutoModelForCausalLM")
        config = FutureTokensConfig(
            n_future=self.n_future,
            n_pseudo=self.n_pseudo,
            n_decoder_layer=self.n_decoder_layer,
            linear=self.heads == "linear",
            **self.config(vocab_size),
        )
        return FutureTokensLMHeadModel(config)
