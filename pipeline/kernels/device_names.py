"""Devices as the command line names them."""

from __future__ import annotations

from typing import Any

from pipeline.utils.errors import RecipeError


def device(name: str | None) -> Any:
    """The device to put models on: cuda where there is one and nothing is said.

    Raises:
        RecipeError: when there is no such device on this machine.
    """
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError):
        known = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise RecipeError("--device", f"{name!r} is no device of this machine; allowed: {', '.join(known)}") from None
    return name
