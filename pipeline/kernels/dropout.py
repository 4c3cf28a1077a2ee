"""Dropout that draws 16 random bits a value: from torch's generators, or from a key.

A key is for runs that are stacked, each of which has masks of its own whichever runs stand beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn import functional as F


class Masks:
    """Dropout masks as a function of a key alone: the n-th dropout of a forward is given the n-th masks of the key.

    64 bits for four values are SplitMix64 (Steele et al. 2014) at a place of its sequence, as in `native/dropout.h`.
    """

    def __init__(self, key: torch.Tensor):
        self.key, self.site = key, 0

    def __call__(self, hidden: torch.Tensor, p: float) -> torch.Tensor:
        """Drops values of a tensor; the probability is rounded to a multiple of 2^-16, and the scale with it."""
        count, dropped = hidden.numel(), round(p * 65536)
        key, self.site = _word(self.key, torch.full_like(self.key, self.site)), self.site + 1
        words = _word(key, torch.arange(-(-count // 4), device=hidden.device))
        bits = torch.stack([(words >> shift) & 0xFFFF for shift in (0, 16, 32, 48)], -1).flatten()[:count]
        return hidden * (bits.view(hidden.shape) >= dropped).to(hidden.dtype).mul(65536 / (65536 - dropped))


def _word(key: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Word `place` of the sequence of a key; numbers of 64 bits wrap around, and `>>` of torch keeps the sign."""
    z = key + (place + 1) * -0x61C8864680B583EB
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


_MASKS: list[Masks] = []  # the last is in force


@contextmanager
def masked_by(masks: Masks | None) -> Iterator[None]:
    """Takes dropout masks within the block from where it is said, in place of torch's generators."""
    if masks is None:
        yield
        return
    _MASKS.append(masks)
    try:
        yield
    finally:
        _MASKS.pop()


def dropout(hidden: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """Dropout; on a CPU its probability is rounded to a multiple of 2^-16, and the scale with it."""
    if not (training and p):
        return hidden
    if _MASKS:
        return _MASKS[-1](hidden, p)
    count, dropped = hidden.numel(), round(p * 65536)
    if hidden.device.type != "cpu" or torch.compiler.is_compiling() or dropped == 65536:
        return F.dropout(hidden, p)
    # Four values share a 64-bit draw of torch's generator, whose state checkpoints keep.
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = bits[:count].view(hidden.shape) >= dropped - 32768
    return hidden * kept.to(hidden.dtype).mul_(65536 / (65536 - dropped))
