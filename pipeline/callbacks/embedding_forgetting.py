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
    chance, gets its own back, and none of them is trained. The output projection goes along. It needs whole weights:
    one process, or several under DDP.
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
        from pipeline.callbacks._fresh_rows import check_whole

        check_whole(trainer, "embedding_forgetting")
        super().attach(trainer)

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        import torch

        from pipeline.callbacks._fresh_rows import fresh, token_weights

        step = state.global_step
        if self.until is not None and step >= self.until:
            return
        std = self.std or float(model.config.initializer_range)
        weights = token_weights(model)
        if self.every is None:
            from pipeline.utils.draws import Draws

            count = len(weights[0])
            chosen = Draws(args.seed, "forgotten tokens", step).uniform(count) < self.probability
            rows = torch.from_numpy(chosen).to(weights[0].device)[:, None]
            self._own = [weight.detach().clone() for weight in weights]
            for number, weight in enumerate(weights):
                weight.data.copy_(torch.where(rows, fresh(weight, std, args.seed, step, number), weight))
        elif step and step % self.every == 0:
            for number, weight in enumerate(weights):
                weight.data.copy_(fresh(weight, std, args.seed, step, number))
            self._forget(kwargs["optimizer"], weights)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        from pipeline.callbacks._fresh_rows import token_weights

        for weight, own in zip(token_weights(model), self._own):
            weight.data.copy_(own)
            weight.grad = None  # so that the optimizer passes over it
        self._own = []

    def _forget(self, optimizer: Any, weights: list[Any]) -> None:
        if self.optimizer_reset == "none":
            return
        states = optimizer.state
        for weight in weights if self.optimizer_reset == "embeddings" else list(states):
            for value in states.get(weight, {}).values():
                value.zero_()
