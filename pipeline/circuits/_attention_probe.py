"""Attention whose scores and pattern can be seen and replaced, which the fused kernels never form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEEN = "groklab_seen"
_watchers: dict[nn.Module, Callable[[nn.Module, str, Tensor], Tensor]] = {}


@contextmanager
def seen_attention(model: PreTrainedModel, watch: Callable[[nn.Module, str, Tensor], Tensor] | None) -> Iterator[None]:
    """Within the block attention calls `watch(module, side, value)` for its scores and for its pattern."""
    if watch is None:
        yield
        return
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(SEEN, _attention)
    AttentionMaskInterface.register(SEEN, eager_mask)
    body: Any = model.base_model  # the library's class, whose source tells it that attention can be set
    usual = model.config._attn_implementation
    watched = dict.fromkeys(model.modules(), watch)
    _watchers.update(watched)
    # Attention that transformers does not know computes itself, and shows what it forms.
    own: list[Any] = [module for module in watched if hasattr(module, "watch")]
    try:
        body.set_attn_implementation(SEEN)
        for module in own:
            module.watch = partial(watch, module)
        yield
    finally:
        body.set_attn_implementation(usual)
        for module in own:
            del module.watch
        for module in watched:
            del _watchers[module]


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float,
    **_: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Attention of queries, keys and values (B, H, T, E) in the open; dropout is off, as nothing is trained here.

    Fewer keys and values than queries each serve as many neighbouring heads.
    """
    watch = _watchers[module]
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
    scores = query @ key.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    scores = watch(module, "scores", scores)
    exact = torch.promote_types(scores.dtype, torch.float32)
    pattern = watch(module, "pattern", F.softmax(scores, dim=-1, dtype=exact).to(value.dtype))
    return (pattern @ value).transpose(1, 2).contiguous(), pattern
