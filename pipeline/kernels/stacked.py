"""Runs of one model as one step: their weights beside each other, their products as one product over the runs.

A small model leaves a GPU idle between its kernels; many of them in one step fill it. Every run has rows, a rate, a
decay and dropout masks of its own, and nothing of a run depends on which others stand beside it, but for the rounding
of its products.

What is computed is the short forward of `forward.py` itself, which `torch.func.vmap` gives a further axis, so that
there is no second forward to keep equal. Tensor names carry their shape: R runs, P weights of a run; B rows, L tokens,
A answer tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from pipeline.data.labels import IGNORED
from pipeline.data.rows import Batch, Rows
from pipeline.kernels.cuda_graph import Captured
from pipeline.kernels.dropout import Masks, masked_by
from pipeline.kernels.forward import install
from pipeline.kernels.onednn import plain

TokenLosses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # logits and labels to the loss of every token
IDLE = (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0)  # `AdamW.numbers` of a place in which no run is


class AdamW(NamedTuple):
    """What stays the same of a run's AdamW. `most`: the largest norm of its gradients, above which they are clipped."""

    beta1: float
    beta2: float
    epsilon: float
    decay: float
    most: float

    @staticmethod
    def of(optimizer: torch.optim.Optimizer, max_grad_norm: float) -> AdamW:
        """Those of an optimizer, whose weights without decay are a group of their own."""
        group = optimizer.param_groups[0]
        beta1, beta2 = group["betas"]
        decay = max(other["weight_decay"] for other in optimizer.param_groups)
        return AdamW(beta1, beta2, group["eps"], decay, max_grad_norm if max_grad_norm > 0 else float("inf"))

    def numbers(self, rate: float, step: int) -> list[float]:
        """What AdamW multiplies with in step `step` of a run, counted from 1, as torch computes it: in float64."""
        return [
            1 - rate * self.decay, 1 - self.beta1, self.beta2, 1 - self.beta2,
            rate / (1 - self.beta1**step), (1 - self.beta2**step) ** 0.5, self.epsilon, self.most,
        ]  # fmt: skip


class Stacked:
    """Weights and AdamW's state of several runs, which their models and optimizers share until `release`.

    Each weight of a run is a part of one matrix here, and so is its state: what is read from or written to the model is
    read from and written to the stack. `captured`: the update as a CUDA graph, where it is to be one.
    """

    def __init__(
        self,
        models: Sequence[PreTrainedModel],
        optimizers: Sequence[torch.optim.Optimizer],
        rows: Rows,
        token_losses: TokenLosses,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ):
        """Args:
        models: Of one class and shape, whose short forward is known to be theirs.
        optimizers: AdamW, of every weight of its model, some with and some without decay.
        rows: Of all runs, on the device.
        token_losses: Of logits (R, B, A, V) and labels (R, B, A).
        autocast: What the forward is computed in.
        """
        self.models, self.optimizers = models, optimizers
        self.rows, self.token_losses, self.autocast = rows, token_losses, autocast
        self.skeleton = plain(copy.deepcopy(models[0])).requires_grad_(False)
        install(self.skeleton)
        # Weights that decay come first, so that they are a slice.
        decaying = [group for optimizer in optimizers for group in optimizer.param_groups if group["weight_decay"]]
        ids = {id(weight) for group in decaying for weight in group["params"]}
        named = [dict(model.named_parameters()) for model in models]
        decays = {name for weights in named for name, weight in weights.items() if id(weight) in ids}
        names = sorted(named[0], key=lambda name: name not in decays)
        ends = np.cumsum([named[0][name].numel() for name in names]).tolist()
        self.spans = {name: (end - named[0][name].numel(), end) for name, end in zip(names, ends)}
        self.decayed = max((self.spans[name][1] for name in decays), default=0)
        self.shapes = {name: named[0][name].shape for name in names}
        self.parts = [[weights[name] for name in names] for weights in named]
        device = models[0].device
        self.weights_RP = torch.empty(len(models), ends[-1], device=device)
        self.means_RP, self.squares_RP = torch.zeros_like(self.weights_RP), torch.zeros_like(self.weights_RP)
        self.inside: dict[int, Any] = {}  # runs whose weights lie here, each with a hook's handle
        self.steps = [self._take_in(run) for run in range(len(models))]
        self.leaves = {name: part.requires_grad_() for name, part in self._views(self.weights_RP).items()}
        self.numbers_NR = torch.zeros(len(IDLE), len(models), device=device)
        self.keys_R = torch.zeros(len(models), dtype=torch.int64, device=device)
        self.captured: Captured | None = None

    def _views(self, all_RP: torch.Tensor) -> dict[str, torch.Tensor]:
        """The weights of all runs by name, (R, ...)."""
        found = {}
        for name, (start, end) in self.spans.items():
            found[name] = all_RP[:, start:end].view(len(all_RP), *self.shapes[name]).detach()
        return found

    @torch.no_grad()
    def _take_in(self, run: int) -> int:
        """Lets a run's weights and state lie in the stack; returns how many steps it has made."""
        optimizer = self.optimizers[run]
        optimizer.zero_grad()
        optimizer.step()  # changes nothing without gradients; schedules warn where it was never called
        state, steps = optimizer.state, 0
        for weight, (start, end) in zip(self.parts[run], self.spans.values()):
            for tensor, all_RP in ((weight.data, self.weights_RP), *self._moments(state.get(weight))):
                all_RP[run, start:end] = tensor.flatten()
            weight.data = self.weights_RP[run, start:end].view_as(weight)
            known = state.get(weight)
            steps = int(known["step"]) if known else 0
            state[weight] = {
                "step": torch.tensor(float(steps), device=weight.device),
                "exp_avg": self.means_RP[run, start:end].view_as(weight),
                "exp_avg_sq": self.squares_RP[run, start:end].view_as(weight),
            }
        self.inside[run] = optimizer.register_state_dict_post_hook(_copied)
        return steps

    def _moments(self, known: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(known["exp_avg"], self.means_RP), (known["exp_avg_sq"], self.squares_RP)] if known else []

    @torch.no_grad()
    def release(self, run: int) -> None:
        """Gives a run weights and state of its own again; its place in the stack idles."""
        if run not in self.inside:
            return
        self.inside.pop(run).remove()
        state = self.optimizers[run].state
        for weight in self.parts[run]:
            weight.data = weight.data.clone()
            state[weight] = {name: part.clone() for name, part in state[weight].items()}

    def count(self, run: int, updates: int) -> None:
        """Writes down that a run has made so many more updates, as its optimizer does."""
        self.steps[run] += updates
        for weight in self.parts[run]:
            self.optimizers[run].state[weight]["step"].fill_(self.steps[run])

    def logits(self, weights: dict[str, torch.Tensor], batch: Batch, keys_R: torch.Tensor | None) -> torch.Tensor:
        """Logits (R, B, A, V) of runs with these weights (R, ...).

        Args:
            weights: By name.
            batch: Tensors (R, B, ...); or (B, ...), which all runs read.
            keys_R: Of the dropout masks of every run; None: without dropout.
        """
        self.skeleton.train(keys_R is not None)
        has_rows = batch["input_ids"].ndim == 3

        def one(
            weights: dict[str, torch.Tensor], key: torch.Tensor | None, tokens_BL: torch.Tensor, place_BA: torch.Tensor
        ) -> torch.Tensor:
            inputs = {"input_ids": tokens_BL, "answers": batch["tail"] or place_BA}
            with masked_by(None if key is None else Masks(key)):
                logits_BAV: torch.Tensor = functional_call(self.skeleton, weights, kwargs=inputs)
            return logits_BAV

        each, axis = 0 if has_rows else None, None if keys_R is None else 0
        # Attention over many tokens by products, of which vmap makes one for all runs; of its kernels, one for each.
        with self.autocast(), sdpa_kernel(SDPBackend.MATH):
            over_runs = vmap(one, in_dims=(0, axis, each, each))
            return over_runs(weights, keys_R, batch["input_ids"], batch["positions"]).float()

    @torch.no_grad()
    def judged_logits(self, runs: Sequence[int], batch: Batch) -> torch.Tensor:
        """Logits (R, B, A, V) of some runs over one batch (B, ...), without dropout."""
        whole = len(runs) == len(self.models)
        weights = {name: part.detach() if whole else part.detach()[list(runs)] for name, part in self.leaves.items()}
        return self.logits(weights, batch, None)

    def update(
        self, rows_RB: torch.Tensor, numbers_NR: torch.Tensor, keys_R: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One update of all runs.

        Args:
            rows_RB: Numbers of the rows of every run.
            numbers_NR: What `AdamW.numbers` says of every run.
            keys_R: Of the dropout masks.

        Returns:
            The loss of every run, and the norm of its gradients before they are clipped, (R,) each.
        """
        self.numbers_NR.copy_(numbers_NR)
        self.keys_R.copy_(keys_R)
        if self.captured is None:
            return self._update(rows_RB.flatten())
        loss_R, norm_R = self.captured(rows_RB.flatten(), self._update)
        return loss_R.clone(), norm_R.clone()  # which the next replay writes over

    def _update(self, rows_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        runs = len(self.models)
        batch = {
            name: part.unflatten(0, (runs, -1)) if isinstance(part, torch.Tensor) else part
            for name, part in self.rows.__getitems__(rows_N).items()
        }
        labels_RBA = batch["labels"]
        losses_RBA = self.token_losses(self.logits(self.leaves, batch, self.keys_R), labels_RBA)
        loss_R = losses_RBA.sum((1, 2)) / (labels_RBA != IGNORED).sum((1, 2))
        found = torch.autograd.grad(loss_R.sum(), list(self.leaves.values()))
        gradients_RP = torch.cat([part.flatten(1) for part in found], 1)
        return loss_R.detach(), self._step(gradients_RP)

    @torch.no_grad()
    def _step(self, gradients_RP: torch.Tensor) -> torch.Tensor:
        """Clips gradients and makes AdamW's step with them (Loshchilov & Hutter 2019, algorithm 2); the norms (R,)."""
        shrink, rest1, beta2, rest2, rate, root, epsilon, most = self.numbers_NR[..., None].unbind()
        norm_R1 = gradients_RP.norm(dim=1, keepdim=True)
        gradients_RP.mul_((most / (norm_R1 + 1e-6)).clamp(max=1.0))
        self.weights_RP[:, : self.decayed].mul_(shrink)
        self.means_RP.lerp_(gradients_RP, rest1)
        self.squares_RP.mul_(beta2).add_(gradients_RP.square_().mul_(rest2))
        width_RP = self.squares_RP.sqrt().div_(root).add_(epsilon)
        self.weights_RP.sub_(torch.div(self.means_RP, width_RP, out=gradients_RP).mul_(rate))
        return norm_R1[:, 0]


def _copied(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A state without the stack that its tensors are parts of, all of which a file would hold otherwise."""
    state = {
        number: {name: part.clone() for name, part in known.items()} for number, known in state_dict["state"].items()
    }
    return {**state_dict, "state": state}
