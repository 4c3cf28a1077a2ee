"""What an architecture is: parameters, and a randomly initialised Hugging Face model built from them.

One file per architecture. When transformers lacks it, the modelling code stands beside it as `modeling_<name>.py`,
which imports nothing but torch and transformers: it travels with the weights, so that others load them without us.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline.config.fields import Parameters
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipeline.corpora.store import StoredCorpus
    from pipeline.data.rows import Rows


Family = Literal["gpt2", "gpt_neox"]
Stream = Literal["gpt2", "gpt_neox", "llama"]  # architectures whose residual stream is known


@dataclass(frozen=True)
class Architecture(Parameters, abc.ABC):
    """A language model to train; subclasses are frozen dataclasses of its sizes, or of where it comes from.

    What a class declares here holds for the models that it builds itself, not for those of its subclasses. It is
    checked before it is used.
    """

    # The family whose forward its models compute, so that training may take the short one of `kernels.forward`.
    forward_family: ClassVar[Family | None] = None
    # The family whose residual stream its models have: embedding, heads and MLPs add up to it, and edges are known.
    residual_family: ClassVar[Stream | None] = None

    def short_forward(self, model: PreTrainedModel) -> str | None:
        """The family that `forward_family` declares of a model of this architecture."""
        return vars(type(self)).get("forward_family")

    def known_edges(self) -> str | None:
        """The family that `residual_family` declares of the models of this architecture."""
        return vars(type(self)).get("residual_family")

    @property
    def rewords(self) -> bool:
        """Whether prompts that differ in the corpus may be the same in the tokens of the model."""
        return False

    @abc.abstractmethod
    def build(self, vocab_size: int) -> PreTrainedModel:
        """The model with fresh weights, drawn from torch's global random numbers: seed them first.

        It has as many token rows as the vocabulary, and `save_pretrained` and `from_pretrained` round-trip it.
        """

    def for_corpus(self, stored: StoredCorpus) -> PreTrainedModel:
        """The model that learns a corpus: by default, one with a token row for each of its words."""
        return self.build(len(stored.tokens))

    def tokenizer(self, stored: StoredCorpus) -> PreTrainedTokenizerBase:
        """The tokenizer of the model: by default, the corpus's closed vocabulary."""
        from pipeline.data.tokenizer import build_tokenizer

        return build_tokenizer(stored.tokens, stored.corpus.separator)

    def added(self, stored: StoredCorpus) -> range:
        """The ids of tokens that the model lacked before it met a corpus; of a new model, none."""
        return range(0)

    def own_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer that the model had before it met a corpus; None where it had none."""
        return None

    def rows(self, stored: StoredCorpus, split: str, most: int | None = None) -> Rows:
        """A split in the tokens of the model; `most` draws that many rows, the same ones every time."""
        from pipeline.data.rows import load_rows

        return load_rows(stored, split, most)

    def token_ids(self, stored: StoredCorpus, tokenizer: Path | None = None) -> Sequence[int]:
        """The token of the model for each word of the corpus; `tokenizer` is the folder of one that was saved."""
        return range(len(stored.tokens))

    @property
    @abc.abstractmethod
    def max_length(self) -> int:
        """The longest sequence, in tokens, that the model has positions for."""


def check_heads(width: int, heads: int) -> None:
    """Raises ParameterError unless every head gets the same share of the width."""
    if width % heads:
        raise ParameterError("n_head", f"{heads} does not divide n_embd, {width}")


# No token begins, ends or pads a text: rows have exact lengths, and answers are read off at their positions.
NO_SPECIAL_TOKENS: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
