"""What a callback is: a TrainerCallback whose parameters a recipe can fill.

One file per callback, a dataclass with `on_...` methods as TrainerCallback has them. It inherits from TrainerCallback
only once training starts, because importing that class takes as long as importing all of transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pipeline.parameters import Parameters

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from pipeline.texts import Texts
    from pipeline.trainer import GrokTrainer


@dataclass
class Callback(Parameters):
    """The base of callbacks; `self.trainer` is there once a trainer is joined.

    `intervenes` says that it changes weights, gradients or what is trained. It then is part of the recipe, as the
    learning rate is: a run does not go on without it or with other parameters, and is named by it.
    """

    intervenes: ClassVar[bool] = False

    if TYPE_CHECKING:
        trainer: ClassVar[GrokTrainer]

    def texts(self) -> Texts | None:
        """The text that it reads beside the corpus, of a model that is continued; this one reads none."""
        return None

    def attach(self, trainer: GrokTrainer) -> None:
        """Joins a trainer, as a real TrainerCallback with these parameters."""
        from transformers import TrainerCallback

        kind = type(self)
        attached: TrainerCallback = object.__new__(type(kind.__name__, (kind, TrainerCallback), {}))
        attached.__dict__.update(self.__dict__, trainer=trainer)
        trainer.add_callback(attached)
