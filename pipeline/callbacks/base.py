"""What a callback is: a TrainerCallback whose parameters a recipe can fill.

One file per callback, a dataclass with `on_...` methods as TrainerCallback has them. It inherits from TrainerCallback
only once training starts, because importing that class takes as long as importing all of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pipeline.config.fields import Parameters
from pipeline.config.registry import load, names

if TYPE_CHECKING:
    from pipeline.config.recipe import Recipe
    from pipeline.data.rows import Rows
    from pipeline.data.text import Texts
    from pipeline.runs.grokking import GrokTracker


class Trainer(Protocol):
    """What callbacks know of the trainer, beside what the methods of TrainerCallback are given."""

    recipe: Recipe
    model: Any
    args: Any
    accelerator: Any
    held_out: Sequence[str]
    grok: GrokTracker
    losses: Any
    is_in_train: bool
    is_deepspeed_enabled: bool
    is_fsdp_enabled: bool
    train_rows: Rows
    stopped_by: str | None

    @property
    def splits(self) -> Mapping[str, Rows]: ...

    def log(self, logs: dict[str, float]) -> None: ...

    def keep_step(self, metrics: Mapping[str, float]) -> None: ...

    def fail(self) -> None: ...

    def add_callback(self, callback: Any) -> None: ...


@dataclass
class Callback(Parameters):
    """The base of callbacks; `self.trainer` is there once a trainer is joined.

    `always`: it is part of every run, and a recipe only sets its parameters. `priority`: those with lower numbers are
    called first. `intervenes`: it changes weights, gradients or what is trained. It then is part of the recipe, as the
    learning rate is: a run does not go on without it or with other parameters, and is named by it. What it remembers
    from step to step goes through `state_dict`, so that a run that is resumed ends as one that was not.
    """

    always: ClassVar[bool] = False
    priority: ClassVar[int] = 50
    intervenes: ClassVar[bool] = False

    if TYPE_CHECKING:
        trainer: ClassVar[Trainer]

    def texts(self) -> Texts | None:
        """The text that it reads beside the corpus, of a model that is continued; this one reads none."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, for checkpoints: tensors, and values that JSON has."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` gave; tensors lie on the CPU."""

    def on_optimizer_made(self, optimizer: Any) -> None:
        """May change the groups of an optimizer before an engine divides its state; the model is `trainer.model`."""

    def attach(self, trainer: Trainer) -> None:
        """Joins a trainer, as a real TrainerCallback with these parameters."""
        from transformers import TrainerCallback

        kind = type(self)
        attached: TrainerCallback = object.__new__(
            type(kind.__name__, (kind, TrainerCallback), {"__module__": kind.__module__})
        )
        attached.__dict__.update(self.__dict__, trainer=trainer)
        trainer.add_callback(attached)


def with_defaults(chosen: Mapping[str, Any]) -> list[Callback]:
    """The callbacks of a recipe and those of every run, in the order in which they are called."""
    kinds: dict[str, Any] = {name: load("callbacks", name, "callbacks") for name in names("callbacks")}
    found: dict[str, Callback] = {name: kind() for name, kind in kinds.items() if kind.always} | dict(chosen)
    return [found[name] for name in sorted(found, key=lambda name: (found[name].priority, name))]
