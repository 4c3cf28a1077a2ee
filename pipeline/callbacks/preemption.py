"""Ends training when the machine is taken away: SIGTERM, SIGUSR1, SIGINT."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from pipeline.callbacks.base import Callback
from pipeline.utils.signals import REQUEST, Agreement, agree


@dataclass
class Preemption(Callback):
    """Saves a checkpoint at the end of the step in which a signal came, on all processes, and stops."""

    always: ClassVar[bool] = True
    priority: ClassVar[int] = 70

    _agreement: Agreement | None = field(default=None, init=False, repr=False)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        REQUEST.in_training = True
        if args.world_size > 1:
            self._agreement = agree(args.process_index, args.world_size)
            self._agreement.begin(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        agreement = self._agreement
        if agreement.ends(state.global_step) if agreement else REQUEST.number is not None:
            self.trainer.stopped_by = agreement.reason if agreement else REQUEST.name
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        REQUEST.in_training = False
        if self._agreement:
            # A process that is still in its last step may be waiting for what another one's thread has to say.
            self.trainer.accelerator.wait_for_everyone()
            self._agreement.close()
