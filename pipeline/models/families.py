"""What is known of an existing model from its class and its configuration: its family, and its longest sequence."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, get_args

from pipeline.config.registry import load, names
from pipeline.models.base import Stream

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODELING = "pipeline.models.modeling_"  # modules of this package that build what an earlier run trained
LIKE_LLAMA = ("mistral", "qwen2", "qwen3")  # whose blocks have the parts of Llama's, and add them up as it does
# What configurations call the longest sequence that there are positions for.
LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "context_length", "n_ctx")


def longest(config: Any) -> int:
    """Returns the longest sequence, in tokens; sys.maxsize for a model without a table of positions, such as Bloom."""
    known = (getattr(config.get_text_config(), name, None) for name in LENGTHS)
    return next((length for length in known if isinstance(length, int) and length > 0), sys.maxsize)


def forward_of(model: PreTrainedModel) -> str | None:
    """Returns the family of which a model has exactly the class, or which an architecture of this package declares."""
    from pipeline.kernels.forward_check import family_of

    home = type(model).__module__
    if home.startswith(MODELING):
        return vars(load("models", home.removeprefix(MODELING), "model")).get("forward_family")
    return family_of(model)


def edges_of(config: Any) -> str | None:
    """Returns the family whose residual stream a model with this configuration and no code of its own has."""
    found = str(config.model_type)
    if found in get_args(Stream):
        return found
    if found in LIKE_LLAMA:
        return "llama"
    return vars(load("models", found, "model")).get("residual_family") if found in names("models") else None
