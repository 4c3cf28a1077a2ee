"""Several optimizers, each of some weights, as one that the Trainer, accelerate and schedulers can hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def together(parts: Sequence[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    """One optimizer whose groups are those of all parts, so that a scheduler moves every rate, and one state dict."""
    from torch.optim import Optimizer

    class Together(Optimizer):
        """The parts share its groups and its state, so that saving and loading are torch's own."""

        def __init__(self) -> None:
            super().__init__([group for part in parts for group in part.param_groups], {})
            self._share()

        def _share(self) -> None:
            start = 0
            for part in parts:
                part.state = self.state
                part.param_groups = self.param_groups[start : start + len(part.param_groups)]
                start += len(part.param_groups)

        def __setstate__(self, state: dict[str, Any]) -> None:
            super().__setstate__(state)
            self._share()

        def step(self, closure: Callable[[], float] | None = None) -> Any:
            loss = None if closure is None else closure()
            for part in parts:
                part.step()
            return loss

    return Together()
