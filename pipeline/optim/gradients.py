"""Changes of the gradients between clipping and the optimizer that make models grok sooner, and a loss that does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from pipeline.config.recipe import Options
from pipeline.data.rows import IGNORED
from pipeline.kernels.devices import widest
from pipeline.utils.errors import ParameterError

TINY = 1e-30  # keeps quotients of norms finite


def token_losses(logits: torch.Tensor, labels: torch.Tensor, kind: str) -> torch.Tensor:
    """The loss of every token, for logits (..., V) and labels (...); 0 where a label is ignored.

    `cross_entropy` in float32. `stablemax` in float64, where the device has it: -log(s(x_y) / sum s(x)) with
    s(x) = x + 1 for x >= 0 and 1 / (1 - x) below, which grows too slowly to leave a prediction without a gradient
    (Prieto et al. 2025, arXiv 2501.04697).
    """
    if kind == "cross_entropy":
        flat = F.cross_entropy(
            logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )  # fmt: skip
        return flat.view_as(labels)
    x = logits.to(widest(logits.device))
    log_s = torch.where(x >= 0, x.clamp(min=0).log1p(), -(-x.clamp(max=0)).log1p())
    chosen = log_s.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    return (log_s.exp().sum(-1).log() - chosen).masked_fill(labels == IGNORED, 0.0)


def check_sharding(options: Options, sharded: bool) -> None:
    """Refuses what needs the gradients of whole weights where processes have parts of them.

    Raises:
        ParameterError: that names the option.
    """
    for key, is_on in {
        "grokfast": options.grokfast != "off",
        "orthogonal_gradient": options.orthogonal_gradient,
    }.items():
        if is_on and sharded:
            raise ParameterError(key, "needs whole gradients, which DeepSpeed and FSDP do not keep")


def attach(optimizer: torch.optim.Optimizer, options: Options) -> None:
    """Lets the optimizer change its gradients at the beginning of every step, as the recipe says."""
    changes: list[Any] = []
    if options.grokfast != "off":
        averages = Ema(options.grokfast_alpha) if options.grokfast == "ema" else MovingAverage(options.grokfast_window)
        grokfast = Grokfast(averages, options.grokfast_lamb)
        optimizer.register_state_dict_post_hook(grokfast.save)
        optimizer.register_load_state_dict_pre_hook(grokfast.load)
        changes.append(grokfast)
    if options.orthogonal_gradient:
        changes.append(make_orthogonal)

    def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        weights = [w for group in optimizer.param_groups for w in group["params"] if w.grad is not None]
        for change in changes:
            change([w.grad for w in weights], weights)

    if changes:
        optimizer.register_step_pre_hook(before_step)


@torch.no_grad()
def make_orthogonal(gradients: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]) -> None:
    """Takes each gradient's part along its weights away, and keeps its norm (Prieto et al. 2025, orthogonal gradient).

    That part only scales the logits, which lowers the loss of what is fitted without changing what is predicted.
    """
    for g, w in zip(gradients, weights):
        norm = g.norm()
        g.sub_(w * ((w * g).sum() / ((w * w).sum() + TINY)))
        g.mul_(norm / (g.norm() + TINY))


class Ema:
    """The exponential moving average of tensors, beginning with the first ones."""

    def __init__(self, alpha: float):
        self.alpha = alpha
        self.state: list[torch.Tensor] = []

    def __call__(self, new: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        if not self.state:
            self.state = [tensor.clone() for tensor in new]
        else:
            torch._foreach_lerp_(self.state, list(new), 1 - self.alpha)
        return self.state


class MovingAverage:
    """The mean of the last `window` tensors; 0 until there are so many.

    The state: how many there were, and for each tensor the last ones and, in float64 where the device has it, their
    sum. All of it lies on the device and changes in place, so that it can be part of a CUDA graph.
    """

    def __init__(self, window: int):
        self.window = window
        self.state: list[torch.Tensor] = []

    def __call__(self, new: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        if not self.state:
            self.state = [torch.zeros(1, dtype=torch.int64, device=new[0].device)]
            for tensor in new:
                self.state.append(tensor.new_zeros(self.window, *tensor.shape))
                self.state.append(torch.zeros_like(tensor, dtype=widest(tensor.device)))
        count, pasts, sums = self.state[0], self.state[1::2], self.state[2::2]
        place = count % self.window
        for tensor, past, total in zip(new, pasts, sums):
            total.add_(tensor).sub_(past.index_select(0, place)[0])
            past.index_copy_(0, place, tensor[None])
        count.add_(1)
        share = (count >= self.window) / self.window
        return [(total * share).to(tensor.dtype) for tensor, total in zip(new, sums)]


class Grokfast:
    """Adds `lamb` times a slow average of the gradients to them (Lee et al. 2024, arXiv 2405.20233).

    What it remembers is part of the optimizer's state dict, and so of every checkpoint.
    """

    def __init__(self, average: Ema | MovingAverage, lamb: float):
        self.average = average
        self.lamb = lamb

    @torch.no_grad()
    def __call__(self, gradients: list[torch.Tensor], weights: Sequence[torch.Tensor]) -> None:
        torch._foreach_add_(gradients, list(self.average(gradients)), alpha=self.lamb)

    def save(self, optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
        state_dict["grokfast"] = self.average.state

    def load(self, optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> None:
        device = optimizer.param_groups[0]["params"][0].device
        wide = widest(device)
        state = state_dict.pop("grokfast")
        self.average.state = [tensor.to(device, wide if tensor.dtype == torch.float64 else None) for tensor in state]
