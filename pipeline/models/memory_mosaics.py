"""Memory Mosaics (Zhang et al. 2024, arXiv 2405.06394): associative memories in the place of attention and MLPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.config.fields import param
from pipeline.models.base import NO_SPECIAL_TOKENS, Architecture, check_heads

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class MemoryMosaics(Architecture):
    """Blocks of a memory of the text so far and of one that is learned, without queries and without positions.

    The first holds for each earlier token, under a leaky average up to it, what came next, so that one block can do
    induction; the second stands where GPT-2 has an MLP, and by default makes a block as large as GPT-2's. A memory is a
    layer of the configuration, which has two a block. It is trained by its own forward: that of `kernels.forward` is
    for softmax attention with queries.
    """

    n_layer: int = param(12, "blocks", ge=1)
    n_embd: int = param(768, "width of the residual stream", ge=1)
    n_head: int = param(12, "heads of each memory", ge=1)
    n_memories: int | None = param(
        None, "pairs that a head of a learned memory holds; null: 3.5 times n_embd, the weights of GPT-2's block", ge=1
    )
    n_positions: int = param(1024, "longest sequence; nothing in the model depends on it", ge=1)
    dropout: float = param(0.05, "of embeddings, memories and residual branches", ge=0, lt=1)
    initializer_range: float = param(0.02, "standard deviation of the initial projections and embeddings", gt=0)
    tie_word_embeddings: bool = param(True, "the output projection is the token embedding")

    tiny_values: ClassVar[Mapping[str, Any]] = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 12}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.n_embd, self.n_head)

    @property
    def max_length(self) -> int:
        return self.n_positions

    def build(self, vocab_size: int) -> PreTrainedModel:
        from pipeline.models.modeling_memory_mosaics import MemoryMosaicsConfig, MemoryMosaicsLMHeadModel

        MemoryMosaicsConfig.register_for_auto_class()
        MemoryMosaicsLMHeadModel.register_for_auto_class("AutoModelForCausalLM")
        config = MemoryMosaicsConfig(
            **NO_SPECIAL_TOKENS,
            vocab_size=vocab_size,
            n_layer=2 * self.n_layer,
            n_embd=self.n_embd,
            n_head=self.n_head,
            n_memories=self.n_memories or 7 * self.n_embd // 2,
            n_positions=self.n_positions,
            embd_pdrop=self.dropout,
            attn_pdrop=self.dropout,
            resid_pdrop=self.dropout,
            initializer_range=self.initializer_range,
            tie_word_embeddings=self.tie_word_embeddings,
        )
        return MemoryMosaicsLMHeadModel(config)
