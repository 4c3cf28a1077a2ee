"""Weights from a kept step into a model that is already there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from pipeline.parameters import MismatchError

# GPT-NeoX's output projection: its name in files, and in models of current transformers.
RENAMED = {"embed_out": "lm_head"}


def load_weights(model: Any, folder: Path) -> None:
    """Copies the weights of a `steps/stepN` or `checkpoint-N` folder into a model of the same sizes, on its device.

    Raises:
        MismatchError: when a weight is missing or of another shape, or the folder has one too many.
    """
    places = model.state_dict(keep_vars=True)
    weights = {
        name if name in places else _renamed(name): weight
        for name, weight in load_file(folder / "model.safetensors").items()
    }
    # A tied weight has two names and is stored under one of them.
    filled = {id(places[name]) for name in weights if name in places}
    missing = [name for name, place in places.items() if id(place) not in filled]
    wrong = [name for name, weight in weights.items() if name not in places or places[name].shape != weight.shape]
    if missing or wrong:
        raise MismatchError(f"{folder} does not fit {type(model).__name__}: {', '.join(missing[:3] + wrong[:3])}")
    model.load_state_dict(weights, strict=False)


def _renamed(name: str) -> str:
    """The name in a model of a weight, or of a part of an adapter, that has another one in files."""
    layer, _, rest = name.partition(".")
    return f"{RENAMED.get(layer, layer)}.{rest}"
