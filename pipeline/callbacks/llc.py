"""The local learning coefficient: how degenerate the minimum is (Lau et al. 2023, arXiv 2308.12108; 2603.01192)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pipeline.callbacks._probe import Gradient, Weights, batch_of, evaluated, gradients_at, weights_of
from pipeline.callbacks.base import Callback
from pipeline.config.fields import param


@dataclass
class Llc(Callback):
    """Logs `llc` at every evaluation: n beta times what the training loss rises by, near the weights.

    The mean is over the second half of a chain of Langevin dynamics on fixed training rows, pulled back to the weights
    by `localization`. Each draw costs a gradient. Engines must not shard the weights.
    """

    draws: int = param(200, "steps of the chain", ge=2)
    rows: int = param(256, "most training rows of all draws", ge=1)
    step_size: float = param(1e-4, "epsilon of the dynamics", gt=0)
    n_beta: float | None = param(None, "inverse temperature; null: n / log n of the training rows", gt=0)
    localization: float = param(100.0, "gamma, the strength of the pull back", ge=0)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        rows = max(len(self.trainer.splits["train"]), 2)
        n_beta = rows / math.log(rows) if self.n_beta is None else self.n_beta
        batch = batch_of(self.trainer, self.rows, "llc")
        with evaluated(self.trainer) as model:
            found = self.coefficient(gradients_at(self.trainer, model), weights_of(model), batch, n_beta)
        self.trainer.log({"llc": found})

    def coefficient(self, gradient: Gradient, start: Weights, batch: Any, n_beta: float) -> float:
        """The coefficient at `start`, of a loss whose value and gradient `gradient` gives."""
        import torch

        weights = {name: weight.clone() for name, weight in start.items()}
        device = next(iter(weights.values())).device
        # A generator of its own, so that what is trained is drawn as ever.
        noise = torch.Generator(device).manual_seed(0)
        losses = []
        for _ in range(self.draws):
            loss, gradients = gradient(weights, batch)
            losses.append(float(loss))
            for name, weight in weights.items():
                pull = n_beta * gradients[name] + self.localization * (weight - start[name])
                drawn = torch.randn(weight.shape, generator=noise, device=device, dtype=weight.dtype)
                weight.sub_(pull, alpha=self.step_size / 2).add_(drawn, alpha=self.step_size**0.5)
        kept = losses[len(losses) // 2 :]
        return n_beta * (sum(kept) / len(kept) - losses[0])
