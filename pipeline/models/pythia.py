"""Pythia (Biderman et al. 2023): GPT-NeoX as transformers builds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline.config.fields import param
from pipeline.models.base import NO_SPECIAL_TOKENS, Architecture, Family, check_heads

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# preset -> (n_layer, n_embd, n_head), as in table 1 of the paper
PRESETS = {
    "pythia-14m": (6, 128, 4),
    "pythia-31m": (6, 256, 8),
    "pythia-70m": (6, 512, 8),
    "pythia-160m": (12, 768, 12),
    "pythia-410m": (24, 1024, 16),
    "pythia-1b": (16, 2048, 8),
    "pythia-1.4b": (24, 2048, 16),
    "pythia-2.8b": (32, 2560, 32),
    "pythia-6.9b": (32, 4096, 32),
    "pythia-12b": (36, 5120, 40),
}


@dataclass(frozen=True)
class Pythia(Architecture):
    """Pythia from scratch: a preset's sizes, any of which can be overridden by the same names as GPT-2's."""

    forward_family: ClassVar[Family | None] = "gpt_neox"
    residual_family: ClassVar[Family | None] = "gpt_neox"

    tiny_values: ClassVar[Mapping[str, Any]] = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 12}

    preset: Literal[
        "pythia-14m",
        "pythia-31m",
        "pythia-70m",
        "pythia-160m",
        "pythia-410m",
        "pythia-1b",
        "pythia-1.4b",
        "pythia-2.8b",
        "pythia-6.9b",
        "pythia-12b",
    ] = param("pythia-70m", "sizes where none are given")
    n_layer: int | None = param(None, "blocks", ge=1)
    n_embd: int | None = param(None, "width of the residual stream", ge=1)
    n_head: int | None = param(None, "attention heads", ge=1)
    n_inner: int | None = param(None, "width of the MLP; null: four times n_embd", ge=1)
    n_positions: int = param(2048, "longest sequence of the rotary positions", ge=1)
    rotary_pct: float = param(0.25, "share of each head's width that rotates with position", gt=0, le=1)
    parallel_residual: bool = param(True, "attention and MLP read the same residual stream")
    dropout: float = param(0.0, "of embeddings, attention and residual branches", ge=0, lt=1)
    initializer_range: float = param(0.02, "standard deviation of the initial weights", gt=0)
    tie_word_embeddings: bool = param(False, "the output projection is the token embedding")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.sizes[1], self.sizes[2])

    @property
    def sizes(self) -> tuple[int, int, int]:
        layers, width, heads = PRESETS[self.preset]
        return self.n_layer or layers, self.n_embd or width, self.n_head or heads

    @property
    def max_length(self) -> int:
        return self.n_positions

    def config(self, vocab_size: int) -> dict[str, Any]:
        """The arguments of GPTNeoXConfig."""
        layers, width, heads = self.sizes
        return {
            **NO_SPECIAL_TOKENS,
            "vocab_size": vocab_size,
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "intermediate_size": self.n_inner or 4 * width,
            "max_position_embeddings": self.n_positions,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": self.rotary_pct,
            },
            "use_parallel_residual": self.parallel_residual,
            "attention_dropout": self.dropout,
            "hidden_dropout": self.dropout,
            "initializer_range": self.initializer_range,
            "tie_word_embeddings": self.tie_word_embeddings,
        }

    def build(self, vocab_size: int) -> PreTrainedModel:
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        return GPTNeoXForCausalLM(GPTNeoXConfig(**self.config(vocab_size)))
