"""What engines need beside their configuration, and going on with another number of processes."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pipeline.config.outside import is_asked, uses_cpu
from pipeline.runs.checkpoints import UNIVERSAL, step_of
from pipeline.utils.errors import RecipeError

if TYPE_CHECKING:
    from pipeline.training.trainer import GrokTrainer

ENGINES = {"NO": "none", "MULTI_CPU": "DDP", "MULTI_GPU": "DDP"}  # accelerate's word -> ours


def prepare_engine(training: Mapping[str, Any]) -> None:
    """Set what must be set before a process group is made.

    What a run folder holds is loaded as tensors and plain values, never as pickled code, by whatever library: torch is
    told so for the whole process, since DeepSpeed asks it for the opposite.

    Raises:
        RecipeError: when the engine that was asked for would silently not be used.
    """
    import torch

    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    on_cpu = uses_cpu(training) or not torch.cuda.is_available()
    if on_cpu and (is_asked("FSDP") or training.get("fsdp")):
        raise RecipeError("fsdp", "accelerate has none on CPU, and would train without it; choose zero3 or multi_gpu")
    if on_cpu and is_asked("DEEPSPEED") and is_asked("CPU"):
        raise RecipeError("ACCELERATE_USE_CPU", "accelerate leaves DeepSpeed out when it is set; write --use_cpu true")
    if is_asked("DEEPSPEED") or training.get("deepspeed"):
        import deepspeed.ops
        from deepspeed.runtime.fp16.loss_scaler import LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum
        from deepspeed.utils.tensor_fragment import fragment_address

        torch.serialization.add_safe_globals([LossScaler, ZeroStageEnum, fragment_address])
        # Python before 3.11.4 writes it as a call of getattr, which no one should be allowed to load.
        ZeroStageEnum.__reduce_ex__ = lambda stage, _: (ZeroStageEnum, (stage.value,))
        # DeepSpeed calls by their old names what torch 2.13 has renamed, and is told so at every step.
        warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
        if on_cpu:
            # It would compile an extension, for a minute and where there is a compiler; gloo does without.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


@contextmanager
def undivided(args: Any) -> Iterator[None]:
    """Lets `from_pretrained` load whole weights: under ZeRO-3 it would divide them before they can be extended.

    They are divided when training begins, as those of a model that is built are.
    """
    from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if getattr(args, "hf_deepspeed_config", None) is not None:
            set_hf_deepspeed_config(args.hf_deepspeed_config)
        elif args.deepspeed_plugin is not None:  # of the launcher's
            args.deepspeed_plugin.set_deepspeed_weakref()


def in_force(trainer: GrokTrainer) -> dict[str, Any]:
    """Return what the Trainer runs on and in, as accelerate has set it up: for environment.json.

    Raises:
        RecipeError: when that is another precision than the recipe's.
    """
    import torch

    args, state = trainer.args, trainer.accelerator.state
    mixed, engine = state.mixed_precision, ENGINES.get(state.distributed_type.value, state.distributed_type.value)
    if trainer.is_deepspeed_enabled:
        engine = f"DeepSpeed ZeRO-{state.deepspeed_plugin.zero_stage}"
    elif trainer.is_fsdp_enabled:
        engine = f"FSDP{state.fsdp_plugin.fsdp_version}"
    wanted = "fp16" if args.fp16 else "bf16" if args.bf16 else "no"
    if mixed != wanted:
        raise RecipeError(
            "environment", f"mixed precision is {mixed}, and of the recipe {wanted}; start without a config"
        )
    has_tf32 = args.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return {
        "device": _device_name(args.device),
        "threads": torch.get_num_threads(),
        "processes": state.num_processes,
        "engine": engine,
        "step": "stacked" if trainer.loop.is_stacked else "torch" if trainer.loop.compiled is None else "compiled",
        "precision": {"no": "float32"}.get(mixed, mixed) + " with TF32" * has_tf32,
    }


def _device_name(device: Any) -> str:
    import torch

    threads = torch.get_num_threads()
    if device.type == "cpu":
        return f"CPU, {threads} thread{'s' * (threads > 1)}"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type)


def regrouped(trainer: GrokTrainer, checkpoint: str) -> str:
    """Return a checkpoint for this number of processes: itself, or for ZeRO the same state divided anew.

    All processes must call it.

    Raises:
        RecipeError: under ZeRO-3, of which DeepSpeed's universal checkpoints lose the optimizer's step.
    """
    if not trainer.is_deepspeed_enabled:
        return checkpoint
    step = step_of(checkpoint)
    folder = Path(checkpoint) / f"global_step{step}"
    shards, now = len(list(folder.glob("*_optim_states.pt"))), trainer.args.world_size
    plugin = trainer.accelerator.state.deepspeed_plugin
    if shards == now:
        return checkpoint
    if not shards:
        raise RecipeError("output_dir", f"{checkpoint} was not saved under DeepSpeed; go on as the run was started")
    if plugin.zero_stage == 3:
        raise RecipeError(
            "output_dir",
            f"{checkpoint} was saved by {shards} processes under ZeRO-3, whose optimizer state cannot be divided "
            f"exactly among {now}; go on with {shards}, or write the run anew with zero2",
        )
    new = Path(checkpoint).parent / UNIVERSAL / Path(checkpoint).name
    if trainer.is_world_process_zero():
        _to_universal(folder, new)
    trainer.accelerator.wait_for_everyone()
    plugin.hf_ds_config.config["checkpoint"] = {"load_universal": True}
    return str(new)


def _to_universal(folder: Path, new: Path) -> None:
    """DeepSpeed's conversion, into a folder of its own beside links to what the checkpoint has otherwise."""
    from deepspeed.checkpoint.ds_to_universal import main

    new.mkdir(parents=True, exist_ok=True)
    for path in folder.parent.iterdir():
        if path != folder and path.name != "latest":
            (new / path.name).symlink_to(path.resolve())
    places = {"input_folder": str(folder), "output_folder": str(new / folder.name)}
    options = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True}
    with redirect_stdout(io.StringIO()):
        main(SimpleNamespace(**places, **options, inject_missing_state=True))
    (new / "latest_universal").write_text(folder.name, encoding="utf-8")
