"""What callbacks remember, in a checkpoint: tensors in one file, and what JSON can say in another."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.callbacks.base import Callback
from pipeline.config.registry import room_name

TENSORS, VALUES = "callbacks.safetensors", "callbacks.json"


def save_states(callbacks: Iterable[Any], folder: Path) -> None:
    """Write the states of those callbacks that have one."""
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    values: dict[str, dict[str, Any]] = {}
    for callback in _ours(callbacks):
        state, name = callback.state_dict(), room_name(callback)
        if not state:
            continue
        parts = {key: part for key, part in state.items() if isinstance(part, torch.Tensor)}
        tensors |= {f"{name}/{key}": part.detach().cpu().contiguous() for key, part in parts.items()}
        values[name] = {key: part for key, part in state.items() if key not in parts}
    if values:
        save_file(tensors, folder / TENSORS)
        (folder / VALUES).write_text(json.dumps(values), encoding="utf-8")


def load_states(callbacks: Iterable[Any], folder: Path) -> None:
    """Give callbacks what they remembered at a checkpoint."""
    from safetensors.torch import load_file

    if not (folder / VALUES).is_file():
        return
    values = json.loads((folder / VALUES).read_text(encoding="utf-8"))
    for path, tensor in load_file(folder / TENSORS).items():
        name, _, key = path.partition("/")
        values[name][key] = tensor
    for callback in _ours(callbacks):
        if room_name(callback) in values:
            callback.load_state_dict(values[room_name(callback)])


def _ours(callbacks: Iterable[Any]) -> list[Callback]:
    return [callback for callback in callbacks if isinstance(callback, Callback)]
