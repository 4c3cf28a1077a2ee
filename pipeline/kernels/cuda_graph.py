"""A whole update as one CUDA graph: forward, backward, clipping and optimizer, started by a single call.

A small model's update is a thousand kernels that take less time each than Python takes to start them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

from pipeline.utils.log import log

Update = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
WARM_UP = 3  # updates before the capture: they compile kernels, choose algorithms and create the optimizer's state


# Events of the Trainer in the middle of an update.
INNER_EVENTS = ("on_substep_end", "on_pre_optimizer_step", "on_optimizer_step")


def why_not_captured(
    args: TrainingArguments, optimizer: torch.optim.Optimizer, callbacks: Sequence[TrainerCallback], is_cut: bool,
    forward: str | None = None,
) -> str | None:  # fmt: skip
    """What in the setting cannot be part of a graph; None: nothing. `forward`: what of the model's forward cannot."""
    if args.device.type != "cuda":
        return "only CUDA has graphs"
    if args.world_size > 1:
        return "gradients are exchanged between processes"
    if is_cut:
        return "rows differ so much in length that batches are cut into pieces, whose sizes change"
    if not all(group.get("fused") for group in optimizer.param_groups):
        return "only fused optimizers keep all of their state on the device; write optim: adamw_torch_fused"
    for callback in callbacks:
        for event in INNER_EVENTS:
            if getattr(type(callback), event) is not getattr(TrainerCallback, event):
                return f"the callback {type(callback).__name__} acts in the middle of an update ({event})"
    return forward


class Captured:
    """Runs updates one by one at first, then as a graph that reads the rows and the learning rates from fixed places.

    Every call is one update of the weights, also the first ones and the one that is captured. A graph that cannot be
    captured is said so in a line, and updates go on one by one. `optimizer`: whose rates change; None where the update
    reads all that changes from fixed places of its own.
    """

    def __init__(self, optimizer: torch.optim.Optimizer | None, rows: int, device: torch.device):
        self.optimizer = optimizer
        self.groups: list[dict[str, Any]] = optimizer.param_groups if optimizer else []
        self.rows_B = torch.zeros(rows, dtype=torch.int64, device=device)
        self.rates = [torch.zeros((), device=device) for _ in self.groups]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.calls = 0
        self.failure: str | None = None
        self.stream = torch.cuda.Stream(device)

    def __call__(self, rows_B: torch.Tensor, update: Update) -> tuple[torch.Tensor, torch.Tensor]:
        """One update of the weights from these rows; its loss and norm, which the next call overwrites."""
        self.calls += 1
        if self.failure or self.calls <= WARM_UP:
            return self._aside(rows_B, update)
        if self.graph is None:
            try:
                self._capture(rows_B, update)
            except RuntimeError as error:
                self.graph, self.failure = None, str(error).strip().splitlines()[0]
                if self.optimizer:
                    self.optimizer.zero_grad()
                log.info(f"updates are not captured as a CUDA graph: {self.failure}")
                return self._aside(rows_B, update)
        assert self.graph is not None
        self.rows_B.copy_(rows_B)
        for rate, group in zip(self.rates, self.groups):
            rate.fill_(group["lr"])
        self.graph.replay()
        return self.results

    def _aside(self, rows_B: torch.Tensor, update: Update) -> tuple[torch.Tensor, torch.Tensor]:
        """An update on a stream of its own, as a capture needs those before it to be."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            results = update(rows_B)
        torch.cuda.current_stream().wait_stream(self.stream)
        return results

    def _capture(self, rows_B: torch.Tensor, update: Update) -> None:
        """Records an update, which does not run it."""
        self.rows_B.copy_(rows_B)
        groups = self.groups
        usual = [(group["lr"], group["capturable"]) for group in groups]
        graph = torch.cuda.CUDAGraph()
        try:
            # Schedules and checkpoints keep their plain numbers; the graph reads tensors that are filled before it.
            for group, rate in zip(groups, self.rates):
                group.update(lr=rate, capturable=True)
            with torch.cuda.graph(graph, stream=self.stream):
                self.results = update(self.rows_B)
        finally:
            for group, (rate, capturable) in zip(groups, usual):
                group.update(lr=rate, capturable=capturable)
        self.graph = graph
