"""Whole weights where an engine divides them: read, replaced, and what the optimizer remembers of them forgotten.

DeepSpeed keeps a weight three times: as the model computes with it, in float32 as the optimizer steps it, and in the
flat pieces of the optimizer's state. FSDP2's weights are distributed tensors, and so are their moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.callbacks.base import Trainer

OWN = "own_state"  # marks a group of weights whose optimizer state is theirs alone


def check_whole(trainer: Trainer, name: str) -> None:
    """Refuses a callback that runs the whole model on each process where processes have parts of its weights.

    Raises:
        ParameterError: that names the callback.
    """
    if trainer.is_fsdp_enabled or zero_stage(trainer) == 3:
        raise ParameterError(f"callbacks.{name}", "needs whole weights, which ZeRO-3 and FSDP do not keep; take zero2")


def check_replaceable(trainer: Trainer, name: str) -> None:
    """Refuses a callback that replaces weights where there is no way to reach all copies of them.

    Raises:
        ParameterError: that names the callback.
    """
    if trainer.is_fsdp_enabled and trainer.accelerator.state.fsdp_plugin.fsdp_version == 1:
        raise ParameterError(
            f"callbacks.{name}", "replaces weights, which FSDP 1 joins with others into one; take fsdp_version 2"
        )


def zero_stage(trainer: Trainer) -> int:
    """The stage of ZeRO that a trainer runs under; 0: DeepSpeed is not used."""
    return int(trainer.accelerator.state.deepspeed_plugin.zero_stage) if trainer.is_deepspeed_enabled else 0


def set_apart(optimizer: Any, weights: Sequence[nn.Parameter]) -> None:
    """Puts weights of an optimizer into groups of their own, so that ZeRO keeps their moments and steps apart.

    It flattens the weights of a group into one, which has one step count. To be called before it does.
    """
    chosen = {id(weight) for weight in weights}
    for group in [*optimizer.param_groups]:
        apart = [weight for weight in group["params"] if id(weight) in chosen]
        if len(apart) == len(group["params"]):
            group[OWN] = bool(apart)
            continue
        group["params"] = [weight for weight in group["params"] if id(weight) not in chosen]
        if apart:
            optimizer.add_param_group({**group, "params": apart, OWN: True})


@contextmanager
def gathered(weights: Sequence[nn.Parameter], is_changed: bool = False) -> Iterator[None]:
    """Within the block weights that ZeRO-3 divides are whole on each process; changes of the first one stay."""
    if not any(hasattr(weight, "ds_id") for weight in weights):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(weights), modifier_rank=0 if is_changed else None):
        yield


def shape(weight: nn.Parameter) -> tuple[int, ...]:
    """The shape of a weight that may be divided."""
    return tuple(getattr(weight, "ds_shape", weight.shape))


def whole(weight: nn.Parameter) -> Tensor:
    """A copy of a weight as the optimizer steps it: whole, and in float32 where it is trained in less precision.

    All processes must call it.
    """
    from torch.distributed.tensor import DTensor

    if isinstance(weight, DTensor):
        return weight.full_tensor().detach().clone()
    if hasattr(weight, "ds_id") or hasattr(weight, "get_full_hp_param"):
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(weight).detach().clone()
    return weight.detach().clone()


def replace(weight: nn.Parameter, value: Tensor, is_trained: bool = True) -> None:
    """Gives a weight another value, which is whole; all processes must call it, with the same value.

    `is_trained`: also to the copy that the optimizer steps, where there is another one; if not, the next step
    overwrites the value.
    """
    import torch
    from torch.distributed.tensor import DTensor, distribute_tensor

    with torch.no_grad():
        if isinstance(weight, DTensor):
            value = value.to(weight.device, weight.dtype)
            part = distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None)
            weight.to_local().copy_(part.to_local())
            return
        with gathered([weight], is_changed=True):
            weight.data.copy_(value)
        if is_trained:
            _replace_trained(weight, value)


def _replace_trained(weight: nn.Parameter, value: Tensor) -> None:
    """The copy that DeepSpeed's optimizer steps."""
    from torch.nn.functional import pad

    if hasattr(weight, "ds_id"):  # its setter of whole values takes only what processes can divide evenly
        import torch.distributed as dist
        from deepspeed.utils import safe_get_local_fp32_param, safe_set_local_fp32_param

        size, rank, ranks = safe_get_local_fp32_param(weight).numel(), dist.get_rank(), dist.get_world_size()
        flat = pad(value.flatten(), (0, size * ranks - value.numel()))
        safe_set_local_fp32_param(weight, flat[size * rank : size * (rank + 1)])
    elif hasattr(weight, "get_full_hp_param"):
        from deepspeed.utils import safe_set_full_fp32_param

        safe_set_full_fp32_param(weight, value)


def forget(optimizer: Any, weights: Sequence[nn.Parameter] | None) -> None:
    """Sets moments and step counts to zero: of these weights, or of all.

    Under ZeRO the weights must have been set apart.
    """
    flat = weights
    while (inner := getattr(optimizer, "optimizer", None)) is not None:  # accelerate's wrapper, and DeepSpeed's
        if weights is not None and hasattr(optimizer, "sub_group_to_group_id"):  # ZeRO-3
            parts = enumerate(optimizer.fp32_partitioned_groups_flat)
            flat = [part for number, part in parts if _is_own(inner, optimizer.sub_group_to_group_id[number])]
        elif weights is not None and hasattr(optimizer, "single_partition_of_fp32_groups"):  # ZeRO-1 and 2
            flat = [part for i, part in enumerate(optimizer.single_partition_of_fp32_groups) if _is_own(inner, i)]
        optimizer = inner
    states = optimizer.state
    for weight in list(states) if flat is None else flat:
        for value in states.get(weight, {}).values():
            value.zero_()


def _is_own(optimizer: Any, number: int) -> bool:
    return bool(optimizer.param_groups[number].get(OWN))
