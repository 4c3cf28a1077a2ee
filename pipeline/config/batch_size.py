"""Rows per update, from what a recipe says of it: as a whole, or per device and accumulated."""

from __future__ import annotations

from typing import Any

from pipeline.config.options import Options
from pipeline.config.trainer_policy import GLOBAL_BATCH_SIZE
from pipeline.utils.errors import ParameterError


def global_batch_of(options: Options, training: dict[str, Any], world: int) -> int:
    """Return rows per update. Where they are taken in parts, the recipe says how many rows a device takes at a time.

    The accumulation follows from that on any number of processes, so it is left out of the recipe.
    """
    accumulation = training.pop("gradient_accumulation_steps", None)
    per_device = training.get("per_device_train_batch_size")
    total = options.global_batch_size
    if total is None:
        total = GLOBAL_BATCH_SIZE if per_device is None else per_device * (accumulation or 1) * world
    on_all = f" x {world} processes" if world > 1 else ""
    divisors = {
        f"{world} processes": world,
        f"gradient_accumulation_steps {accumulation}{on_all}": (accumulation or 1) * world,
        f"per_device_train_batch_size {per_device}": min(per_device or 1, total),
    }
    for name, divisor in divisors.items():
        if total % divisor:
            problem = f"{total} rows do not divide by {name}; write a multiple of {divisor}"
            raise ParameterError("global_batch_size", problem)
    if accumulation:
        rows = total // world // accumulation
        if per_device not in (None, rows):
            given = f"per_device_train_batch_size {per_device} x gradient_accumulation_steps {accumulation}{on_all}"
            raise ParameterError("global_batch_size", f"{total} is not {given}; leave one of them out")
        training["per_device_train_batch_size"] = rows
    return total
