"""Which keys of a recipe decide what is trained: by these a run is told from another."""

from __future__ import annotations

from typing import Any

from pipeline.config.registry import load, names
from pipeline.config.trainer_policy import FREE


def decides(key: str) -> bool:
    """Whether a dotted key of a resolved recipe decides what is trained, and not how it runs or what is watched."""
    block, _, rest = key.partition(".")
    if block == "callbacks":
        return intervenes(rest.partition(".")[0])
    return block not in (*FREE, "circuits", "paper")


def intervenes(name: str) -> bool:
    """Whether a callback changes what is trained; of one that is not here any more nobody can say that it did not."""
    if name not in names("callbacks"):
        return True
    kind: Any = load("callbacks", name, "callbacks")
    return bool(kind.intervenes)
