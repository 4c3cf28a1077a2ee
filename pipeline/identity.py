"""Which keys of a recipe decide what is trained: by these a run is told from another."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pipeline.policy import FREE
from pipeline.rooms import load, names

if TYPE_CHECKING:
    from pipeline.callbacks.base import Callback


def decides(key: str) -> bool:
    """Whether a dotted key of a resolved recipe decides what is trained, and not how it runs or what is watched."""
    block, _, rest = key.partition(".")
    if block == "callbacks":
        return intervenes(rest.partition(".")[0])
    return block not in (*FREE, "circuits", "paper")


def intervenes(name: str) -> bool:
    """Whether a callback changes what is trained; of one that is not here any more nobody can say that it did not."""
    return name not in names("callbacks") or cast("type[Callback]", load("callbacks", name, "callbacks")).intervenes
