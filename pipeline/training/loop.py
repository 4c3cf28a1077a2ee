"""A loop over updates that waits for nothing: rows that lie on the device, taken by index, and a forward over them.

`fast: false` runs transformers' own loop and forward over the same rows in the same order; the fast ones are held
against that in the tests.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback

from pipeline.config.recipe import Recipe
from pipeline.data.rows import Batch, Rows
from pipeline.data.stream import Replayed
from pipeline.kernels.compiled import CompiledStep
from pipeline.kernels.compiled_check import compiled_step
from pipeline.kernels.compiled_layout import FAMILIES
from pipeline.kernels.cuda_graph import INNER_EVENTS, Captured, why_not_captured
from pipeline.kernels.forward import Guarded, Logits, fast_logits, stock_logits, take
from pipeline.kernels.forward_check import why_not_recorded
from pipeline.kernels.host import keep_memory
from pipeline.kernels.onednn import quicken
from pipeline.objectives.base import Objective
from pipeline.objectives.next_token import NextToken
from pipeline.training.turns import Turns
from pipeline.utils.log import log
from pipeline.utils.seeds import torch_seed

Losses = deque[tuple[int, torch.Tensor]]  # of this process, with their steps
WIDEST = 256  # beyond it most of the time goes into products, for which processors' own libraries are made
PAYS = 20.0  # seconds of a training in torch beyond which compiling its step, once for a machine, is soon made up for


class Loop:
    """The updates of a trainer, and the forward that they use.

    `is_own`: whether it runs in place of the Trainer's loop. `is_cut`: whether batches are cut by the length of their
    rows. `notes`: a line for each part of the fast step that is not used, with the reason. `is_stacked`: whether
    updates are made together with those of other runs, by `stack`.
    """

    def __init__(
        self,
        trainer: Trainer,
        model: PreTrainedModel,
        recipe: Recipe,
        rows: Rows,
        losses: Losses,
        is_stacked: bool = False,
    ):
        self.trainer: Any = trainer
        self.objective: Objective = recipe.objective
        self.rows, self.losses, self.is_stacked = rows, losses, is_stacked
        self.notes: list[str] = []
        self.logits: Logits = stock_logits
        self.compiled: CompiledStep | None = None
        self.stack: Turns | None = None
        options, args = recipe.options, trainer.args
        obstacle = self._obstacle()
        self.is_own = options.fast and obstacle is None
        self.is_cut = self.is_own and len(rows.cuts[1]) > 1
        if not options.fast:
            return
        self._note("the Trainer's own loop is used", obstacle)
        # Activation checkpointing recomputes the blocks' own forward, and is for rows that are not short.
        if not any(map(recipe.training.get, ("activation_checkpointing", "gradient_checkpointing"))):
            # Written in the recipe, torch_compile is accelerate's, on any device. Pieces of a batch differ in size with
            # every batch, and would be compiled for each.
            compiled = args.device.type == "cuda" and "torch_compile" not in recipe.training and not self.is_cut
            compiled = compiled and not is_stacked
            self.logits, reason = fast_logits(model, recipe.model.short_forward(model), rows.first(4), compiled)
            self._note("the model's own forward is used", reason)
        if args.device.type == "cpu":
            keep_memory()
            if self.is_own:  # what DeepSpeed or FSDP shards has to pass through torch's own layers
                quicken(model)
                if not is_stacked:
                    self._compile(model, recipe)

    def _note(self, what: str, reason: str | None) -> None:
        if reason is not None:
            self.notes.append(f"{what}: {reason}")

    def _obstacle(self) -> str | None:
        """Why the loop over updates must be the Trainer's."""
        trainer, args = self.trainer, self.trainer.args
        if trainer.is_deepspeed_enabled:
            return "DeepSpeed owns the step"
        if trainer.is_fsdp_enabled:
            return "FSDP shards the gradients"
        if args.fp16 and args.device.type == "cuda":
            return "fp16 scales the loss; bf16 needs no scaling"
        if args.include_num_input_tokens_seen != "no":
            return "include_num_input_tokens_seen counts tokens at every step"
        return None

    def _compile(self, model: PreTrainedModel, recipe: Recipe) -> None:
        """Takes the compiled step where it computes what this recipe trains, and the recipe is long enough."""
        objective, args = self.objective, self.trainer.args
        is_plain = isinstance(self.logits, Guarded) and not isinstance(self.rows, Replayed)
        is_float32 = not (args.bf16 or args.fp16 or args.torch_compile)
        is_small = model.config.model_type in FAMILIES and model.config.hidden_size <= WIDEST
        if not (type(objective) is NextToken and not objective.label_smoothing and is_plain and is_float32):
            return
        if is_small and args.world_size == 1 and self._seconds(model) >= PAYS:
            batch = self.rows.first(4).__getitems__(torch.arange(4))
            self.compiled, reason = compiled_step(model, batch, objective.loss, objective.token_losses)
            self._note("the step is not compiled", reason)

    def _seconds(self, model: PreTrainedModel) -> float:
        """What the whole training takes in torch on one core, roughly: a function of the recipe alone."""
        args, rows = self.trainer.args, self.rows_per_update
        updates = args.max_steps if args.max_steps > 0 else args.num_train_epochs * len(self.rows) / rows
        flop = 6.0 * sum(weight.numel() for weight in model.parameters()) * rows * self.rows.tokens_NT.shape[1]
        return updates * (flop / 1e11 + 2e-3 * model.config.num_hidden_layers)

    @property
    def rows_per_update(self) -> int:
        """Rows of the global batch."""
        args = self.trainer.args
        return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)

    def forward(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, A, V) at the answers of a batch, and the losses that are trained."""
        asks, outputs = self.objective.asks, None
        if asks is None:
            logits_BAV = self.logits(model, batch)
        else:
            outputs = model(input_ids=batch["input_ids"], use_cache=False, **asks)
            logits_BAV = take(outputs.logits, batch["positions"])
        return logits_BAV, self.objective.losses(logits_BAV, batch, outputs)

    @property
    def optimizer(self) -> Any:
        """The optimizer without accelerate's wrapper."""
        return getattr(self.trainer.optimizer, "optimizer", self.trainer.optimizer)

    @cached_property
    def captured(self) -> Captured | None:
        """Updates as a CUDA graph; None, after a line that says why where there is a GPU. Made when training begins."""
        trainer, args = self.trainer, self.trainer.args
        is_short = isinstance(self.logits, Guarded) and self.objective.asks is None
        forward = why_not_recorded(trainer.model, is_short)
        callbacks = trainer.callback_handler.callbacks
        obstacle = why_not_captured(args, self.optimizer, callbacks, self.is_cut, forward)
        if obstacle is None:
            return Captured(self.optimizer, self.rows_per_update, args.device)
        if args.device.type == "cuda" and trainer.is_world_process_zero():
            log.info(f"updates are not captured as a CUDA graph: {obstacle}")
        return None

    def run_epoch(
        self,
        model: nn.Module,
        epoch: int,
        loader: DataLoader[Batch],
        updates: int,
        done: int,
        watched: tuple[Any, ...],
    ) -> None:
        """The Trainer's loop over the updates of an epoch: the same events in the same order, and less between them.

        Args:
            model: As it is wrapped for training.
            epoch: Its number.
            loader: Whose sampler knows the order of the rows.
            updates: Of the epoch.
            done: How many of them were made before.
            watched: What the Trainer's logging, saving and evaluation are given beside loss, norm and model.
        """
        trainer = self.trainer
        args, state, events = trainer.args, trainer.state, trainer.callback_handler
        order: Any = loader.batch_sampler
        norm: torch.Tensor | None = None
        rate: float | None = None
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        update = done
        while update < updates:
            trainer.control = events.on_step_begin(args, state, trainer.control)
            if not model.training:
                model.train()
            if self.stack is not None:
                losses, norm, rate = self.stack.updates(order, updates - update)
            else:
                loss, norm = self._one(model, weights, order.update_rows(state.global_step))
                losses, rate = [loss], trainer._get_learning_rate()
                trainer.lr_scheduler.step()
            trainer._tr_loss += losses[0] if len(losses) == 1 else torch.stack([*losses]).sum()
            for loss in losses:
                state.global_step += 1
                self.losses.append((state.global_step, loss))
            update += len(losses)
            state.epoch = epoch + update / updates
            trainer.control = events.on_step_end(args, state, trainer.control)
            trainer._maybe_log_save_evaluate(trainer._tr_loss, norm, model, *watched, learning_rate=rate)
            if trainer.control.should_epoch_stop or trainer.control.should_training_stop:
                break
        trainer.control = events.on_epoch_end(args, state, trainer.control)
        trainer._maybe_log_save_evaluate(trainer._tr_loss, norm, model, *watched, learning_rate=rate)

    def _one(
        self, model: nn.Module, weights: Sequence[nn.Parameter], rows_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One update; loss and norm."""
        if self.captured is None:
            return self.update(model, weights, rows_B)
        loss, norm = self.captured(rows_B, lambda rows: self.update(model, weights, rows))
        return loss.clone(), norm  # a graph writes its next loss over this one

    def update(
        self, model: Any, weights: Sequence[nn.Parameter], rows_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One update of the weights from the rows of all processes; the loss, and the gradients' norm before clipping.

        Nothing in it waits for the device.
        """
        trainer, args, events = self.trainer, self.trainer.args, self.trainer.callback_handler
        size = args.train_batch_size
        starts = range(args.process_index * size, len(rows_B), args.world_size * size)
        batches = [self.rows.pieces(rows_B[start : start + size]) for start in starts]
        items = trainer._get_num_items_in_batch([piece for pieces in batches for piece in pieces], args.device)
        compiled = self._compiled_now()
        losses: list[torch.Tensor] = []
        for number, pieces in enumerate(batches, 1):
            for piece in pieces:
                if compiled is not None:
                    key = torch_seed("masks", args.seed, trainer.state.global_step, len(losses))
                    losses.append(compiled.backward(piece, float(items), key, adds=len(losses) > 0))
                    continue
                is_last = number == len(batches) and piece is pieces[-1]
                with contextlib.nullcontext() if is_last or args.world_size == 1 else model.no_sync():
                    loss = trainer.compute_loss(model, piece, num_items_in_batch=items)
                    loss.backward()
                losses.append(loss.detach())
            if number < len(batches):
                trainer.control = events.on_substep_end(args, trainer.state, trainer.control)
        most = args.max_grad_norm if args.max_grad_norm > 0 else torch.inf
        if compiled is not None and not self._is_watched and compiled.can_update(self.optimizer):
            trainer.control = events.on_pre_optimizer_step(args, trainer.state, trainer.control)
            norm = compiled.update(self.optimizer, most)
        else:
            norm = nn.utils.clip_grad_norm_(weights, most)
            trainer.control = events.on_pre_optimizer_step(args, trainer.state, trainer.control)
            self.optimizer.step()
        trainer.control = events.on_optimizer_step(args, trainer.state, trainer.control)
        for weight in weights:
            weight.grad = None
        return sum(losses[1:], losses[0]), norm

    def _compiled_now(self) -> CompiledStep | None:
        """The compiled step, unless the model is not as it was found."""
        is_usable = self.compiled is not None and self.compiled.is_usable()
        return self.compiled if is_usable and isinstance(self.logits, Guarded) and self.logits.is_as_found() else None

    @cached_property
    def _is_watched(self) -> bool:
        """Whether a callback acts in the middle of an update, which then is torch's from the gradients on."""
        kinds = {type(callback) for callback in self.trainer.callback_handler.callbacks}
        return any(
            getattr(kind, event) is not getattr(TrainerCallback, event) for kind in kinds for event in INNER_EVENTS
        )
