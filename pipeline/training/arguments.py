"""The arguments of the Trainer: a recipe's, for this machine."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.config.deepspeed import filled_deepspeed
from pipeline.config.outside import uses_cpu
from pipeline.config.trainer_keys import keys
from pipeline.config.trainer_policy import FIXED, OURS
from pipeline.utils.errors import ParameterError, in_one_line
from pipeline.utils.launcher import processes
from pipeline.utils.paths import expanded

if TYPE_CHECKING:
    from transformers import TrainingArguments


def training_arguments(training: Mapping[str, Any], batches: Mapping[str, int]) -> TrainingArguments:
    """Return the Trainer's arguments: those of a recipe, for this machine.

    Raises:
        ParameterError: when transformers refuses them, or the optimizer or schedule that they ask for.
    """
    import torch
    from torch import nn
    from torch.optim import SGD
    from transformers import Trainer, TrainingArguments, get_scheduler
    from transformers.utils import is_torch_bf16_gpu_available, is_torch_tf32_available

    values = {**training, **batches, **FIXED}
    for key in OURS:
        values.pop(key, None)
    values["output_dir"] = str(expanded(training["output_dir"], "output_dir"))
    if isinstance(training.get("fsdp_config"), str):
        values["fsdp_config"] = str(expanded(training["fsdp_config"], "fsdp_config"))
    values["save_total_limit"] = None  # checkpoints.seal rotates, and only over checkpoints that are whole
    if processes().world == 1:
        values.pop("ddp_backend", None)  # which would ask for a process group
    values["deepspeed"] = filled_deepspeed(training)
    values["use_cpu"] = on_cpu = uses_cpu(training)
    has_bf16 = is_torch_bf16_gpu_available() and not on_cpu
    if values["bf16"] is True and not has_bf16 and not on_cpu:
        raise ParameterError("bf16", "no GPU here has it; write auto to take it where there is one, or use_cpu: true")
    values["bf16"] = has_bf16 if values["bf16"] == "auto" else values["bf16"]
    has_tf32 = is_torch_tf32_available() and not on_cpu
    wanted = values.pop("tf32", None)
    if wanted and not has_tf32:
        values["tf32"] = True  # is refused below

    with _refusals_of("training arguments"):
        arguments = TrainingArguments(**values)
    # Not by the Trainer, which sets it in a way after which torch.compile cannot read it (torch 2.11 to 2.13).
    torch.set_float32_matmul_precision("high" if has_tf32 and wanted is not False else "highest")
    if arguments.fp16 and arguments.device.type == "cpu":
        raise ParameterError("fp16", "does nothing on a CPU; write bf16: auto, or leave it out")
    if arguments.fsdp and arguments.world_size == 1:
        raise ParameterError("fsdp", "needs several processes; start them with accelerate launch")
    # Made once for nothing, so that a missing package or a wrong argument is known before any work.
    with _refusals_of("optim"):
        Trainer.get_optimizer_cls_and_kwargs(arguments)
    steps = max(arguments.max_steps, 1)
    with _refusals_of("lr_scheduler_kwargs"):
        get_scheduler(
            arguments.lr_scheduler_type,
            SGD(nn.Linear(1, 1).parameters(), lr=arguments.learning_rate),
            num_warmup_steps=arguments.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=training.get("lr_scheduler_kwargs"),
        )
    # Without a launcher, one process drives one device: the Trainer would otherwise use torch's old DataParallel, which
    # multiplies the batch.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


@contextlib.contextmanager
def _refusals_of(what: str) -> Iterator[None]:
    """Turns an error of transformers into one line about the key that it names, or else about `what`."""
    try:
        yield
    except (ValueError, TypeError, ImportError) as error:
        text = in_one_line(error)
        named = [word for word in re.findall(r"\w+", text) if word in keys()]
        raise ParameterError(named[0] if named else what, text) from None
