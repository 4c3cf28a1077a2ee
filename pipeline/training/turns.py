"""What a run's loop and evaluation know of the others where runs are trained as one step, see `stack.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import DefaultFlowCallback, TrainerCallback

from pipeline.callbacks.console import Console
from pipeline.callbacks.keep_steps import KeepSteps
from pipeline.callbacks.preemption import Preemption
from pipeline.data.rows import RowOrder, Rows

MOST = 100  # updates between two looks at a run: so long a signal waits
# Callbacks that have nothing to do at a step which neither is logged, measured, saved nor kept.
QUIET = (DefaultFlowCallback, Console, KeepSteps, Preemption)


class Turns(Protocol):
    """Who makes the updates of a run, and its measurements, together with those of others."""

    def updates(self, order: RowOrder, left: int) -> tuple[Sequence[torch.Tensor], torch.Tensor, float]:
        """Makes updates, at most `left`: their losses, the last one's norm of gradients, and its learning rate."""
        ...

    def sums(self, rows: Rows, group_N: torch.Tensor, groups: int) -> torch.Tensor:
        """What `group_sums` gives of the run's model, (groups, 4)."""
        ...


def quiet_updates(trainer: Any, left: int) -> int:
    """How many updates, at most `left`, can be made before a run has something to do beside them."""
    if any(map(_acts_at_steps, trainer.callback_handler.callbacks)):
        return 1
    state, keeps = trainer.state, trainer.recipe.checkpoints.keeps
    every = [int(steps) for steps in (state.logging_steps, state.eval_steps, state.save_steps) if steps]
    for count in range(1, min(left, MOST)):
        step = state.global_step + count
        if step in (1, state.max_steps) or keeps(step) or any(step % steps == 0 for steps in every):
            return count
    return min(left, MOST)


def _acts_at_steps(callback: TrainerCallback) -> bool:
    kind = type(callback)
    acts = any(
        getattr(kind, event) is not getattr(TrainerCallback, event) for event in ("on_step_begin", "on_step_end")
    )
    return acts and not isinstance(callback, QUIET)
