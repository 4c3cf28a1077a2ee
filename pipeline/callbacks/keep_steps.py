"""Keeps the weights of the steps that the recipe's `checkpoints:` block names, each with what was measured there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.callbacks.base import Callback


@dataclass
class KeepSteps(Callback):
    """Evaluates at every step of the schedule, then writes `steps/stepN`."""

    always: ClassVar[bool] = True
    priority: ClassVar[int] = 40

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.recipe.checkpoints.keeps(state.global_step):
            control.should_evaluate = True

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        if self.trainer.is_in_train and self.trainer.recipe.checkpoints.keeps(state.global_step):
            self.trainer.keep_step(metrics)
