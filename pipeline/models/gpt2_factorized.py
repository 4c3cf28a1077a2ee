"""GPT-2 with a factorized token embedding: GrokTransfer (Xu et al. 2025, arXiv 2504.13292, section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.config.fields import param
from pipeline.models.base import Family
from pipeline.models.gpt2 import Gpt2
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from pipeline.corpora.store import StoredCorpus
    from pipeline.models.pretrained import Pretrained

RANK = 16


@dataclass(frozen=True)
class Gpt2Factorized(Gpt2):
    """GPT-2 from scratch whose token embedding is A B, both trained; the output projection is not tied.

    A begins as the token embedding of another model, such as a smaller one that generalizes in part, by the words of
    the corpus. B is a random projection, which keeps the lengths of its rows on average. Without another model A is
    drawn too, with A B as large as GPT-2's embedding.
    """

    forward_family: ClassVar[Family | None] = "gpt2"
    residual_family: ClassVar[Family | None] = "gpt2"
    unused: ClassVar[tuple[str, ...]] = ("tie_word_embeddings",)

    tie_word_embeddings: bool = param(False, "the output projection is the token embedding")
    rank: int | None = param(
        None, f"columns of A; null: those of the other model's embedding, without another model {RANK}", ge=1
    )
    model_name_or_path: str = param("", "the other model: name on the Hub, local folder of a model, or folder of a run")
    revision: str | None = param(None, "of the Hub; of a run, stepN, grok or fit; null: main, the last step")
    recipe: str | None = param(None, "an earlier stage, trained first: file beside this one, in place of a name")
    step: str = param("grok", "of the run of `recipe`: grok, when it generalized, fit, last, or a number")
    weights: str | None = param(None, "sha256 of the weights of a run's step, which runs write: others are refused")
    trust_remote_code: bool = param(
        False, "run the code that comes with the other model; a file cannot say so, --trust-remote-code does"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self._other is not None and self.rank is not None:
            raise ParameterError("rank", "is that of the other model's embedding; leave one of them out")

    @cached_property
    def _other(self) -> Pretrained | None:
        """The model whose embedding is taken; None where there is none."""
        if not any((self.model_name_or_path, self.revision, self.recipe, self.weights)):
            return None
        from pipeline.models.pretrained import Pretrained

        return Pretrained(
            self.model_name_or_path, self.revision, self.recipe, self.step, self.weights,
            trust_remote_code=self.trust_remote_code,
        )  # fmt: skip

    def build(self, vocab_size: int) -> PreTrainedModel:
        """The model with both factors drawn; what another model gives, `for_corpus` puts into it."""
        return self._built(vocab_size, self.rank or RANK)

    def for_corpus(self, stored: StoredCorpus) -> PreTrainedModel:
        """The model whose A is the other model's embedding of each word, or is drawn where there is no other model.

        Raises:
            ParameterError: when the other model cannot be read, or lacks a word of the corpus.
        """
        if self._other is None:
            return super().for_corpus(stored)
        import torch

        rows_VR = self._taken(self._other, stored)
        model: Any = self._built(*rows_VR.shape)
        with torch.no_grad():
            model.transformer.wte.weight.copy_(rows_VR)
        return model

    def _built(self, vocab_size: int, rank: int) -> PreTrainedModel:
        from torch import nn

        from pipeline.models.modeling_gpt2_factorized import (
            FactorizedEmbedding,
            FactorizedGPT2Config,
            FactorizedGPT2LMHeadModel,
        )

        FactorizedGPT2Config.register_for_auto_class()
        FactorizedGPT2LMHeadModel.register_for_auto_class("AutoModelForCausalLM")
        model = FactorizedGPT2LMHeadModel(FactorizedGPT2Config(embedding_rank=rank, **self.config(vocab_size)))
        width, wte = self.sizes["n_embd"], model.get_input_embeddings()
        assert isinstance(wte, FactorizedEmbedding)
        nn.init.normal_(wte.projection.weight, std=width**-0.5)
        nn.init.normal_(wte.weight, std=self.initializer_range * (width / rank) ** 0.5)
        return model

    def _taken(self, other: Pretrained, stored: StoredCorpus) -> torch.Tensor:
        """What the other model embeds each word of a corpus as, (V, R)."""
        import torch

        tokenizer: Any = other.own_tokenizer()
        ids = tokenizer.get_vocab()
        if lacking := [word for word in stored.tokens if word not in ids]:
            name = self.recipe or self.model_name_or_path
            raise ParameterError("model.model_name_or_path", f"{name} has no token for {lacking[0]!r} of the corpus")
        with torch.random.fork_rng(devices=[]):  # so that all weights but A are those of the same seed without it
            model: Any = other.build(0)
        with torch.no_grad():
            found: torch.Tensor = model.get_input_embeddings()(torch.tensor([ids[word] for word in stored.tokens]))
        return found.float()
