"""Stops a run whose loss is not a number any more, before it writes weights that are not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from pipeline.callbacks.base import Callback


@dataclass
class Nonfinite(Callback):
    """Looks at the loss whenever it is logged; names the step at which it was first not finite, and saves nothing."""

    always: ClassVar[bool] = True
    priority: ClassVar[int] = 0  # what is not a number is neither kept nor saved

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            self.trainer.fail()
        self.trainer.losses.clear()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        if not all(math.isfinite(value) for key, value in metrics.items() if key.endswith("_loss")):
            self.trainer.fail()
