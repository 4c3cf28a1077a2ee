"""Ends training once the model has generalized, where the recipe says `stop_when: grokked`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.callbacks.base import Callback


@dataclass
class EarlyStopping(Callback):
    """Stops, with a checkpoint, after `stop_patience` evaluations in a row with held-out exact match >= 0.99."""

    always: ClassVar[bool] = True
    priority: ClassVar[int] = 30

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        options = self.trainer.recipe.options
        if options.stop_when == "grokked" and self.trainer.grok.streak >= options.stop_patience:
            control.should_training_stop = control.should_save = True
