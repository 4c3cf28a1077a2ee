"""GPT-2 (Radford et al. 2019), as transformers builds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline.config.fields import param
from pipeline.models.base import NO_SPECIAL_TOKENS, Architecture, Family, check_heads

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# preset -> (n_layer, n_embd, n_head)
PRESETS = {
    "gpt2": (12, 768, 12),
    "gpt2-medium": (24, 1024, 16),
    "gpt2-large": (36, 1280, 20),
    "gpt2-xl": (48, 1600, 25),
}


@dataclass(frozen=True)
class Gpt2(Architecture):
    """GPT-2 from scratch: a preset's sizes, any of which can be overridden."""

    forward_family: ClassVar[Family | None] = "gpt2"
    residual_family: ClassVar[Family | None] = "gpt2"

    tiny_values: ClassVar[Mapping[str, Any]] = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 12}

    preset: Literal["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"] = param("gpt2", "sizes where none are given")
    n_layer: int | None = param(None, "blocks", ge=1)
    n_embd: int | None = param(None, "width of the residual stream", ge=1)
    n_head: int | None = param(None, "attention heads", ge=1)
    n_inner: int | None = param(None, "width of the MLP; null: four times n_embd", ge=1)
    n_positions: int = param(1024, "learned positions", ge=1)
    dropout: float = param(0.1, "of embeddings, attention and residual branches", ge=0, lt=1)
    activation: Literal["gelu", "relu"] = param("gelu", "of the MLP; gelu is GPT-2's tanh form in one kernel")
    initializer_range: float = param(0.02, "standard deviation of the initial weights", gt=0)
    tie_word_embeddings: bool = param(True, "the output projection is the token embedding")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.sizes["n_embd"], self.sizes["n_head"])

    @property
    def sizes(self) -> dict[str, int]:
        layers, width, heads = PRESETS[self.preset]
        return {
            "n_layer": self.n_layer or layers,
            "n_embd": self.n_embd or width,
            "n_head": self.n_head or heads,
        }

    @property
    def max_length(self) -> int:
        return self.n_positions

    def config(self, vocab_size: int) -> dict[str, Any]:
        """The arguments of GPT2Config."""
        return {
            **NO_SPECIAL_TOKENS,
            **self.sizes,
            "vocab_size": vocab_size,
            "n_inner": self.n_inner,
            "n_positions": self.n_positions,
            "embd_pdrop": self.dropout,
            "attn_pdrop": self.dropout,
            "resid_pdrop": self.dropout,
            "activation_function": {"gelu": "gelu_pytorch_tanh", "relu": "relu"}[self.activation],
            "initializer_range": self.initializer_range,
            "tie_word_embeddings": self.tie_word_embeddings,
        }

    def build(self, vocab_size: int) -> PreTrainedModel:
        from transformers import GPT2Config, GPT2LMHeadModel

        return GPT2LMHeadModel(GPT2Config(**self.config(vocab_size)))
