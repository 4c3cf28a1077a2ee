"""The training step: rows that lie on the device, loss on the answers, and a loop over updates that waits for nothing.

`fast: false` runs transformers' own loop and forward over the same rows in the same order; the fast ones are held
against that in the tests.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from pipeline.config.recipe import Recipe
from pipeline.data.labels import IGNORED
from pipeline.data.rows import Batch, Rows, loader
from pipeline.data.stream import Replayed
from pipeline.kernels.cuda_graph import Captured, why_not_captured
from pipeline.kernels.forward import Guarded, Logits, fast_logits, stock_logits
from pipeline.kernels.forward_check import why_not_recorded
from pipeline.kernels.host import keep_memory
from pipeline.kernels.onednn import quicken
from pipeline.optim.base import attach, check_sharding, split
from pipeline.optim.decay import decayed
from pipeline.utils.log import log


class StepTrainer(Trainer):
    """The Trainer with rows that are taken by index, the loss of their answers, and a loop of its own over updates.

    `notes` says in a line each what keeps a part of the fast step from being used.
    """

    model: Any
    lr_scheduler: Any

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        recipe: Recipe,
        train_rows: Rows,
        splits: Mapping[str, Rows],
        tokenizer: PreTrainedTokenizerBase,
    ):
        self.recipe = recipe
        self.losses: deque[tuple[int, torch.Tensor]] = deque(maxlen=10_000)  # of this process since the last log
        super().__init__(model, args, processing_class=tokenizer, train_dataset=train_rows, eval_dataset=dict(splits))
        self.train_rows = train_rows.to(args.device)
        # The loss of replayed text and of all tokens since the last log, summed by this process.
        self.of_text = torch.zeros(2, device=args.device) if isinstance(train_rows, Replayed) else None
        self.notes: list[str] = [*filter(None, [getattr(model, "note", None)])]
        obstacle = self._obstacle() if recipe.options.fast else None
        self._note("the Trainer's own loop is used", obstacle)
        self.has_own_loop = recipe.options.fast and obstacle is None
        self.logits: Logits = stock_logits
        # Activation checkpointing recomputes the blocks' own forward, and is for rows that are not short.
        recomputed = map(recipe.training.get, ("activation_checkpointing", "gradient_checkpointing"))
        if recipe.options.fast and not any(recomputed):
            # Written in the recipe, torch_compile is accelerate's, on any device. Pieces of a batch differ in size with
            # every batch, and would be compiled for each.
            compiled = args.device.type == "cuda" and "torch_compile" not in recipe.training and not self._is_cut
            self.logits, reason = fast_logits(
                model, recipe.model.short_forward(model), self.train_rows.first(4), compiled
            )
            self._note("the model's own forward is used", reason)
        check_sharding(recipe.optimizer, self.is_deepspeed_enabled or self.is_fsdp_enabled)
        if recipe.options.fast and args.device.type == "cpu":
            keep_memory()
            if self.has_own_loop:  # what DeepSpeed or FSDP shards has to pass through torch's own layers
                quicken(model)

    def _note(self, what: str, reason: str | None) -> None:
        if reason is not None:
            self.notes.append(f"{what}: {reason}")

    def _obstacle(self) -> str | None:
        """Why the loop over updates must be the Trainer's."""
        if self.is_deepspeed_enabled:
            return "DeepSpeed owns the step"
        if self.is_fsdp_enabled:
            return "FSDP shards the gradients"
        if self.args.fp16 and self.args.device.type == "cuda":
            return "fp16 scales the loss; bf16 needs no scaling"
        if self.args.include_num_input_tokens_seen != "no":
            return "include_num_input_tokens_seen counts tokens at every step"
        return None

    # Data

    @property
    def rows_per_update(self) -> int:
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def get_train_dataloader(self) -> DataLoader[Batch]:
        args = self.args
        order = self.train_rows.order(
            self.rows_per_update,
            micro=args.train_batch_size,
            rank=args.process_index,
            ranks=args.world_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            updates_done=lambda: self.state.global_step,
            device="cpu" if self._is_cut else args.device,
        )
        return loader(self.train_rows, order)

    @property
    def _is_cut(self) -> bool:
        """Whether the own loop is used, and rows differ so much in length that it cuts batches by it."""
        return self.has_own_loop and len(self.train_rows.cuts[1]) > 1

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> int | torch.Tensor | None:
        """Answer tokens in the whole global batch, by which every process divides its summed loss."""
        if self.train_rows.shape.is_even:
            return self.rows_per_update * self.train_rows.shape.answer
        tokens = torch.stack([(batch["labels"] != IGNORED).sum() for batch in batch_samples]).sum()
        if self.args.world_size > 1:
            dist.all_reduce(tokens)
        return tokens

    # Loss

    def training_step(
        self, model: nn.Module, inputs: Batch, num_items_in_batch: int | torch.Tensor | None = None
    ) -> torch.Tensor:
        if not model.training:
            model.train()
        with self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        # The loss is divided over the whole batch already, so DeepSpeed must not divide it by the accumulation again.
        self.accelerator.backward(loss, **({"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}))
        self.losses.append((self.state.global_step + 1, loss.detach()))
        return loss.detach()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: int | torch.Tensor | None = None,
    ) -> Any:
        """The recipe's loss, summed over this batch's answer tokens and divided by `num_items_in_batch`.

        Multiplied by the number of processes, since gradients are averaged over them.
        """
        logits_BAV = self.logits(model, inputs)
        labels = inputs["labels"]
        losses_BA = self.recipe.objective.token_losses(logits_BAV, labels)
        total = losses_BA.sum()
        if self.of_text is not None:
            losses_B = losses_BA.detach().sum(1)
            self.of_text += torch.stack([(losses_B * inputs["replayed"]).sum(), losses_B.sum()])
        items = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        loss = total * (self.args.world_size / items)
        return (loss, {"logits": logits_BAV}) if return_outputs else loss

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: the Trainer's count walks over all parameters at every step, and counts pads."""
        return 0

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        options, usual = self.recipe.options, super().get_decay_parameter_names(model)
        return decayed(model, usual, options.decay_embeddings, options.decay_norms_and_biases)

    # Optimizer

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        is_new = self.optimizer is None
        own, changes = split(self.recipe.optimizer)
        if is_new and own is not None:
            weights = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
            names = set(self.get_decay_parameter_names(self.model))
            self.optimizer = own.create(weights, names, self.model, self.args)
        optimizer = super().create_optimizer(model)
        if is_new:
            attach(optimizer, changes)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        # Accelerate's wrapper looks for packages on the disk at every step; the loop below steps what is inside it.
        return super().create_scheduler(num_training_steps, self._optimizer if self.has_own_loop else optimizer)

    @property
    def _optimizer(self) -> Any:
        """The optimizer without accelerate's wrapper."""
        return getattr(self.optimizer, "optimizer", self.optimizer)

    # Loop

    @cached_property
    def captured(self) -> Captured | None:
        """Updates as a CUDA graph; None, after a line that says why where there is a GPU. Made when training begins."""
        args, optimizer = self.args, self._optimizer
        forward = why_not_recorded(self.model, isinstance(self.logits, Guarded))
        obstacle = why_not_captured(args, optimizer, self.callback_handler.callbacks, self._is_cut, forward)
        if obstacle is None:
            return Captured(optimizer, self.rows_per_update, args.device)
        if args.device.type == "cuda" and self.is_world_process_zero():
            log.info(f"updates are not captured as a CUDA graph: {obstacle}")
        return None

    def _run_epoch(
        self,
        model: nn.Module,
        epoch: int,
        train_dataloader: DataLoader[Batch],
        steps_in_epoch: int,
        num_update_steps_per_epoch: int,
        trial: Any,
        ignore_keys_for_eval: list[str] | None,
        start_time: float,
        resume_from_checkpoint: str | None,
        epochs_trained: int,
        steps_trained_in_current_epoch: int,
    ) -> None:
        """The Trainer's loop over the updates of an epoch: the same events in the same order, and less between them."""
        if not self.has_own_loop:
            super()._run_epoch(
                model, epoch, train_dataloader, steps_in_epoch, num_update_steps_per_epoch, trial,
                ignore_keys_for_eval, start_time, resume_from_checkpoint, epochs_trained,
                steps_trained_in_current_epoch,
            )  # fmt: skip
            return
        args, state, events = self.args, self.state, self.callback_handler
        order: Any = train_dataloader.batch_sampler
        watched = (trial, epoch, ignore_keys_for_eval, start_time)
        norm: torch.Tensor | None = None
        rate: float | None = None
        done = 0
        if resume_from_checkpoint is not None and epoch == epochs_trained:
            self._load_rng_state(resume_from_checkpoint)
            done = steps_trained_in_current_epoch // args.gradient_accumulation_steps
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        for update in range(done, num_update_steps_per_epoch):
            self.control = events.on_step_begin(args, state, self.control)
            if not model.training:
                model.train()
            rows_B = order.update_rows(state.global_step)
            if self.captured is None:
                loss, norm = self._update(model, weights, rows_B)
            else:
                loss, norm = self.captured(rows_B, lambda rows: self._update(model, weights, rows))
            self._tr_loss += loss
            # A graph writes its next loss over this one.
            self.losses.append((state.global_step + 1, loss if self.captured is None else loss.clone()))
            rate = self._get_learning_rate()
            self.lr_scheduler.step()
            state.global_step += 1
            state.epoch = epoch + (update + 1) / num_update_steps_per_epoch
            self.control = events.on_step_end(args, state, self.control)
            self._maybe_log_save_evaluate(self._tr_loss, norm, model, *watched, learning_rate=rate)
            if self.control.should_epoch_stop or self.control.should_training_stop:
                break
        self.control = events.on_epoch_end(args, state, self.control)
        self._maybe_log_save_evaluate(self._tr_loss, norm, model, *watched, learning_rate=rate)

    def _update(
        self, model: Any, weights: Sequence[nn.Parameter], rows_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One update of the weights from the rows of all processes; the loss, and the gradients' norm before clipping.

        Nothing in it waits for the device.
        """
        args, events = self.args, self.callback_handler
        size = args.train_batch_size
        starts = range(args.process_index * size, len(rows_B), args.world_size * size)
        batches = [self.train_rows.pieces(rows_B[start : start + size]) for start in starts]
        items = self._get_num_items_in_batch([piece for pieces in batches for piece in pieces], args.device)
        losses = []
        for number, pieces in enumerate(batches, 1):
            for piece in pieces:
                is_last = number == len(batches) and piece is pieces[-1]
                with contextlib.nullcontext() if is_last or args.world_size == 1 else model.no_sync():
                    loss = self.compute_loss(model, piece, num_items_in_batch=items)
                    loss.backward()
                losses.append(loss.detach())
            if number < len(batches):
                self.control = events.on_substep_end(args, self.state, self.control)
        most = args.max_grad_norm if args.max_grad_norm > 0 else torch.inf
        norm = nn.utils.clip_grad_norm_(weights, most)
        self.control = events.on_pre_optimizer_step(args, self.state, self.control)
        self._optimizer.step()
        self.control = events.on_optimizer_step(args, self.state, self.control)
        for weight in weights:
            weight.grad = None
        return sum(losses[1:], losses[0]), norm
