"""DeepSpeed's configuration, the recipe's or the launcher's: it says how a model is trained, and the recipe what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.utils.errors import RecipeError
from pipeline.utils.paths import expanded
from pipeline.utils.suggest import did_you_mean

AUTO = "auto"
# Blocks of a DeepSpeed configuration that say how it trains, and not what; others would change what the recipe says.
DEEPSPEED_BLOCKS = (
    *("zero_optimization", "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "activation_checkpointing"),
    *("steps_per_print", "wall_clock_breakdown", "dump_state", "memory_breakdown", "comms_logger", "flops_profiler"),
    *("communication_data_type", "seq_parallel_communication_data_type", "disable_allgather", "aio", "checkpoint"),
    *("tensorboard", "wandb", "csv_monitor", "comet", "nebula", "use_node_local_storage", "load_universal_checkpoint"),
)


def deepspeed_config(
    training: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[str, dict[str, Any], bool] | None:
    """Return the DeepSpeed configuration in force: its name in messages, what it says, and whether it is the recipe's.

    `environ` is that of a launcher that was asked for DeepSpeed, or else empty.

    Raises:
        ParameterError, RecipeError: when its file is not a JSON object.
    """
    written = training.get("deepspeed")
    path = environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if isinstance(written, Mapping):
        return "deepspeed", dict(written), True
    if written:
        return "deepspeed", _read_block(expanded(written, "deepspeed"), "deepspeed"), True
    return None if path == "none" else (path, _read_block(Path(path), path), False)


def _read_block(path: Path, where: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not JSON"
        raise RecipeError(where, f"{path} cannot be read: {reason}") from None
    if not isinstance(found, dict):
        raise RecipeError(where, f"{path} is not a block of DeepSpeed's configuration")
    return found


def check_deepspeed(training: Mapping[str, Any], batches: Mapping[str, int], environ: Mapping[str, str]) -> None:
    """Check whether a DeepSpeed configuration says of the training itself what the recipe says, or auto.

    Raises:
        RecipeError: at the first part of it that contradicts the recipe.
    """
    found = deepspeed_config(training, environ)
    if found is None:
        return
    where, config, is_ours = found
    rows, times = batches["per_device_train_batch_size"], batches["gradient_accumulation_steps"]
    numbers = {
        "train_micro_batch_size_per_gpu": ("per_device_train_batch_size", rows),
        "gradient_accumulation_steps": ("gradient_accumulation_steps", times),
        "train_batch_size": ("global_batch_size", batches["global_batch_size"]),
        "gradient_clipping": ("max_grad_norm", training["max_grad_norm"]),
    }
    for name, (key, wanted) in numbers.items():
        # Left out in a file, DeepSpeed would neither clip nor know the batch; in a recipe it is filled in.
        if name not in config and not is_ours:
            raise RecipeError(where, f'{name} is missing, and would not be that of the recipe; write "{name}": "auto"')
        if config.get(name, AUTO) not in (AUTO, wanted):
            raise RecipeError(where, f'{name} {config[name]} contradicts {key}: {wanted} of the recipe; write "auto"')
    for key in ("bf16", "fp16"):
        block = config.get(key, {})
        asked = block.get("enabled", AUTO) if isinstance(block, Mapping) else block
        if asked != AUTO and training[key] != AUTO and asked != training[key]:
            said = f"{key}.enabled {str(asked).lower()} contradicts {key}: {str(training[key]).lower()}"
            raise RecipeError(where, f'{said} of the recipe; write "auto"')
    known = (*numbers, "bf16", "fp16", *DEEPSPEED_BLOCKS)
    for name in config:
        if name not in known:
            near = did_you_mean(name, known)
            raise RecipeError(where, f"{name} is not allowed: the recipe alone says what is trained{near}")


def filled_deepspeed(training: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the DeepSpeed configuration of a recipe, with `auto` for what it leaves to the recipe's other keys."""
    found = deepspeed_config(training, {})
    if found is None:
        return None
    sizes = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size", "gradient_clipping")
    return {**dict.fromkeys(sizes, AUTO), **found[1]}
