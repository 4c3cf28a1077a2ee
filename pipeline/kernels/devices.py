"""What a device lacks. Apple's MPS has no float64: there a sum is float32, elsewhere it is exact."""

from __future__ import annotations

import torch

NARROW = frozenset(("mps",))  # kinds of devices without float64


def widest(device: torch.device | str) -> torch.dtype:
    """The most exact floating-point type that tensors on a device can have."""
    return torch.float32 if torch.device(device).type in NARROW else torch.float64
