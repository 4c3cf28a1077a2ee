"""What may stand in a recipe's `optimizer:` block: changes of the gradients, and an optimizer of its own.

Changes act in place, after clipping and before the optimizer's step. What they remember travels with the optimizer's
state, and so with every checkpoint. Needs no torch at the top: a recipe is read with these classes.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.config.fields import Parameters
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import TrainingArguments


@dataclass
class GradientTransform(Parameters, abc.ABC):
    """Changes gradients in place. `priority`: those with lower numbers come first.

    All that it remembers is tensors, in the list that `state` returns; they change in place, so that an update can be
    part of a CUDA graph.
    """

    priority: ClassVar[int] = 50

    @abc.abstractmethod
    def __call__(self, gradients: list[Tensor], weights: Sequence[Tensor]) -> None:
        """Changes the gradients of the weights."""

    def state(self) -> list[Tensor]:
        """What it remembers; nothing before its first call."""
        return []

    def load(self, state: Sequence[Tensor]) -> None:
        """Goes on from what `state` gave."""


@dataclass(frozen=True)
class Optimizer(Parameters, abc.ABC):
    """Takes the place of the optimizer that the flat key `optim` names."""

    @abc.abstractmethod
    def create(
        self, weights: Mapping[str, nn.Parameter], decayed: set[str], model: nn.Module, args: TrainingArguments
    ) -> torch.optim.Optimizer:
        """The optimizer of these weights, by name; those in `decayed` have weight decay."""


def split(chosen: Mapping[str, Any]) -> tuple[Optimizer | None, dict[str, GradientTransform]]:
    """The optimizer and the changes of a block, these in the order in which they act.

    Raises:
        ParameterError: when there are two optimizers.
    """
    optimizers = {name: part for name, part in chosen.items() if isinstance(part, Optimizer)}
    if len(optimizers) > 1:
        raise ParameterError("optimizer", f"has {' and '.join(optimizers)}, which are both whole optimizers; keep one")
    changes = {name: part for name, part in chosen.items() if isinstance(part, GradientTransform)}
    in_order = sorted(changes, key=lambda name: (changes[name].priority, name))
    return next(iter(optimizers.values()), None), {name: dataclasses.replace(changes[name]) for name in in_order}


def check_sharding(chosen: Mapping[str, Any], sharded: bool) -> None:
    """Refuses what needs whole weights where processes have parts of them.

    Raises:
        ParameterError: that names the entry.
    """
    for name in chosen if sharded else ():
        raise ParameterError(f"optimizer.{name}", "needs whole gradients, which DeepSpeed and FSDP do not keep")


@dataclass(frozen=True)
class BeforeStep:
    """A hook of an optimizer that changes its gradients at the beginning of every step."""

    changes: Sequence[GradientTransform]

    acts_in_place: ClassVar[bool] = True  # on gradients alone, so that a compiled update may run it

    def __call__(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        import torch

        weights = [w for group in optimizer.param_groups for w in group["params"] if w.grad is not None]
        with torch.no_grad():
            for change in self.changes:
                change([w.grad for w in weights], weights)


def attach(optimizer: torch.optim.Optimizer, changes: Mapping[str, GradientTransform]) -> None:
    """Lets an optimizer change its gradients at the beginning of every step, and keep what the changes remember."""

    def save(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
        for name, change in changes.items():
            if state := change.state():
                state_dict[name] = state

    def load(optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
        import torch

        from pipeline.kernels.devices import widest

        device = optimizer.param_groups[0]["params"][0].device
        for name, change in changes.items():
            state = state_dict.pop(name, [])
            change.load([part.to(device, widest(device) if part.dtype == torch.float64 else None) for part in state])

    if changes:
        optimizer.register_step_pre_hook(BeforeStep([*changes.values()]))
        optimizer.register_state_dict_post_hook(save)
        optimizer.register_load_state_dict_pre_hook(load)
