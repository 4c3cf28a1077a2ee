"""Embeddings that are forgotten on the way, so that what stands in the context is used (Anand et al. 2024, section 5).

Anand et al. 2024, "Dual Process Learning" (arXiv 2406.00053); active forgetting: Chen et al. 2023 (arXiv 2307.01163).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pipeline.callbacks.base import Callback, Trainer
from pipeline.config.fields import param
from pipeline.utils.errors import ParameterError


@dataclass
class EmbeddingForgetting(Callback):
    """Draws the token embeddings anew: all of them every so many steps, or some of them for one step at a time.

    `every` forgets actively, and with `until` temporarily; what the optimizer remembers of these weights starts anew as
    well. A step is measured and kept as it was before. With `probability` each token has another row in a step by this
    chance, gets its own back, and none of them is trained. The output projection goes along. Processes forget the
    same, whether they have whole weights or parts of them, by DeepSpeed's ZeRO or FSDP2.
    """

    intervenes: ClassVar[bool] = True
    tiny_values: ClassVar[dict[str, Any]] = {"every": 2}

    every: int | None = param(None, "steps from one forgetting to the next", ge=1)
    until: int | None = param(None, "step from which on nothing is forgotten any more; null: to the end", ge=1)
    probability: float = param(0.0, "of each token to have another row in a step", ge=0, lt=1)
    std: float | None = param(None, "standard deviation of new rows; null: that of the initial weights", gt=0)
    optimizer_reset: Literal["none", "embeddings", "all"] = param(
        "embeddings", "whose moments and step count of Adam start anew"
    )
    _own: list[Any] = field(init=False, default_factory=list, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.every is None) == (self.probability == 0):
            raise ParameterError("every", "one of every and probability is needed, and not both")

    def attach(self, trainer: Trainer) -> None:
        from pipeline.callbacks._sharded import check_replaceable

        check_replaceable(trainer, "embedding_forgetting")
        super().attach(trainer)

    def on_optimizer_made(self, optimizer: Any) -> None:
        from pipeline.callbacks._fresh_rows import token_weights
        from pipeline.callbacks._sharded import set_apart

        if self.trainer.is_deepspeed_enabled:
            set_apart(optimizer, token_weights(self.trainer.model))

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        from pipeline.callbacks._fresh_rows import fresh, token_weights
        from pipeline.callbacks._sharded import forget, replace, shape

        step = state.global_step
        if self.until is not None and step >= self.until:
            return
        std = self.std or float(model.config.initializer_range)
        weights = token_weights(model)
        if self.every is None:
            self._swap(weights, std, args.seed, step)
        elif step and step % self.every == 0:
            for number, weight in enumerate(weights):
                replace(weight, fresh(shape(weight), std, args.seed, step, number))
            if self.optimizer_reset != "none":
                forget(kwargs["optimizer"], weights if self.optimizer_reset == "embeddings" else None)

    def _swap(self, weights: list[Any], std: float, seed: int, step: int) -> None:
        """Gives some tokens another row, and remembers what they have."""
        import torch

        from pipeline.callbacks._fresh_rows import fresh
        from pipeline.callbacks._sharded import replace, shape, whole
        from pipeline.utils.draws import Draws

        chosen = Draws(seed, "forgotten tokens", step).uniform(shape(weights[0])[0]) < self.probability
        self._own = [whole(weight) for weight in weights]
        for number, (weight, own) in enumerate(zip(weights, self._own)):
            rows = torch.from_numpy(chosen).to(own.device)[:, None]
            new = fresh(own.shape, std, seed, step, number).to(own)
            replace(weight, torch.where(rows, new, own), is_trained=False)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        from pipeline.callbacks._fresh_rows import token_weights
        from pipeline.callbacks._sharded import forget, replace

        if not self._own:
            return
        weights = token_weights(model)
        for weight, own in zip(weights, self._own):
            replace(weight, own)
            weight.grad = None  # so that the optimizer passes over it
        if self.trainer.is_deepspeed_enabled:  # which has made the step already
            forget(kwargs["optimizer"], weights)
        self._own = []
