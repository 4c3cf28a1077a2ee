"""The Trainer of runs: the rows, the loss and the optimizer of a recipe in transformers' own Trainer.

Each of its hooks stands here; what takes more than a few lines is done by a collaborator: `loop` makes the updates,
`evaluation` measures, `saving` writes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainingArguments

from pipeline.callbacks.base import Callback
from pipeline.config.recipe import Recipe
from pipeline.data.labels import IGNORED
from pipeline.data.rows import Batch, Rows, loader
from pipeline.data.stream import Replayed
from pipeline.models.loading import load_weights
from pipeline.optim.base import attach, check_sharding, split
from pipeline.optim.decay import decayed
from pipeline.runs.checkpoints import step_of
from pipeline.runs.folder import RunFolder
from pipeline.runs.forks import Fork
from pipeline.runs.grokking import GrokTracker, judged_split
from pipeline.training.evaluation import Evaluation
from pipeline.training.forking import begin_fork
from pipeline.training.loop import Loop, Losses
from pipeline.training.loss_sums import LossSums
from pipeline.training.saving import Saving
from pipeline.training.trackers import shield
from pipeline.utils.seeds import seed_dropout


class GrokTrainer(Trainer):
    """Trains a language model on the answer tokens of a corpus and watches every split.

    `splits` maps names to rows, `held_out` names those that are not trained; `train` among them is the probe of the
    training rows. `notes` says in a line each what keeps a part of the fast step from being used. Callbacks, trackers,
    accelerate and DeepSpeed work as in the Trainer.
    """

    model: Any
    lr_scheduler: Any
    folder: RunFolder  # of the first process, for what comes after training

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        recipe: Recipe,
        train_rows: Rows,
        splits: Mapping[str, Rows],
        held_out: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        callbacks: Sequence[Callback] = (),
        is_stacked: bool = False,
    ):
        self.recipe, self.held_out = recipe, held_out
        self.grok = GrokTracker(judged_split(held_out))
        self.latest: dict[str, float] = {}  # what the last evaluation found,
        self.latest_step: int | None = None  # and at which step
        self.stopped_by: str | None = None  # the signal after which it was saved and ended
        self.fork: Fork | None = None  # where it begins, until it has a checkpoint of its own
        self.losses: Losses = deque(maxlen=10_000)  # since the last log
        self.saving = Saving(self, recipe, train_rows, self.losses)
        super().__init__(model, args, processing_class=tokenizer, train_dataset=train_rows, eval_dataset=dict(splits))
        check_sharding(recipe.optimizer, self.is_deepspeed_enabled or self.is_fsdp_enabled)
        self.train_rows = recipe.objective.begin(model, train_rows.to(args.device))
        self.sums = LossSums(self, isinstance(train_rows, Replayed))
        self.loop = Loop(self, model, recipe, self.train_rows, self.losses, is_stacked)
        self.notes: list[str] = [*filter(None, [getattr(model, "note", None)]), *self.loop.notes]
        self.splits = {name: rows.to(args.device) for name, rows in splits.items()}
        self.evaluation = Evaluation(self, recipe.objective, self.loop.logits, self.splits)
        self.remove_callback(PrinterCallback)
        shield(self.callback_handler.callbacks, lambda: bool(self.stopped_by or self.saving.failure))
        for callback in callbacks:
            callback.attach(self)

    # Start and end

    @property
    def total_steps(self) -> int:
        """Updates of the whole run, also where the recipe counts epochs."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        updates = -(-len(self.get_train_dataloader()) // self.args.gradient_accumulation_steps)
        return math.ceil(self.args.num_train_epochs * updates)

    def load_weights(self, checkpoint: str) -> None:
        """The weights of a checkpoint, to be measured and not trained further."""
        self._load_from_checkpoint(checkpoint)
        self.state.global_step = step_of(checkpoint)

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        # Going on, the generators' states of the checkpoint take their place, where this process left them there.
        begin = step_of(resume_from_checkpoint) if resume_from_checkpoint else 0
        seed_dropout(self.args.seed, self.args.process_index, begin)
        self.saving.begin(resume_from_checkpoint)
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.saving.writer.wait()

    # Rows and loss

    def get_train_dataloader(self) -> DataLoader[Batch]:
        args = self.args
        order = self.train_rows.order(
            self.loop.rows_per_update,
            micro=args.train_batch_size,
            rank=args.process_index,
            ranks=args.world_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            updates_done=lambda: self.state.global_step,
            device="cpu" if self.loop.is_cut or self.loop.is_stacked else args.device,
        )
        return loader(self.train_rows, order)

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> int | torch.Tensor | None:
        """Targets (or rows) of the whole global batch, by which every process divides its summed loss."""
        if self.recipe.objective.per == "row":
            return self.loop.rows_per_update
        if self.train_rows.shape.is_even:
            return self.loop.rows_per_update * self.train_rows.shape.answer
        tokens = torch.stack([(batch["labels"] != IGNORED).sum() for batch in batch_samples]).sum()
        if self.args.world_size > 1:
            dist.all_reduce(tokens)
        return tokens

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
        """The recipe's losses, summed over this batch and divided by `num_items_in_batch`.

        Multiplied by the number of processes, since gradients are averaged over them.
        """
        logits_BAV, losses = self.loop.forward(model, inputs)
        self.sums.add(losses, inputs)
        items = num_items_in_batch
        if items is None:
            items = len(losses) if self.recipe.objective.per == "row" else (inputs["labels"] != IGNORED).sum()
        loss = losses.sum() * (self.args.world_size / items)
        return (loss, {"logits": logits_BAV}) if return_outputs else loss

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: the Trainer's count walks over all parameters at every step, and counts pads."""
        return 0

    # Optimizer and updates

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        options, usual = self.recipe.options, super().get_decay_parameter_names(model)
        return decayed(model, usual, options.decay_embeddings, options.decay_norms_and_biases)

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
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, Callback):
                    callback.on_optimizer_made(optimizer)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        # Accelerate's wrapper looks for packages on the disk at every step; the loop steps what is inside it.
        return super().create_scheduler(num_training_steps, self.loop.optimizer if self.loop.is_own else optimizer)

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
        if resume_from_checkpoint is not None and epoch == epochs_trained:
            self.sums.load(Path(resume_from_checkpoint))
        if not self.loop.is_own:
            super()._run_epoch(
                model, epoch, train_dataloader, steps_in_epoch, num_update_steps_per_epoch, trial,
                ignore_keys_for_eval, start_time, resume_from_checkpoint, epochs_trained,
                steps_trained_in_current_epoch,
            )  # fmt: skip
            return
        done = 0
        if resume_from_checkpoint is not None and epoch == epochs_trained:
            self._load_rng_state(resume_from_checkpoint)
            done = steps_trained_in_current_epoch // self.args.gradient_accumulation_steps
        watched = (trial, epoch, ignore_keys_for_eval, start_time)
        self.loop.run_epoch(model, epoch, train_dataloader, num_update_steps_per_epoch, done, watched)

    # Evaluation and logs

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measures at most `max_eval_samples` rows of every split, and logs what it finds."""
        self.latest = self.evaluation.measure(metric_key_prefix, self.recipe.options.max_eval_samples)
        self.latest_step = self.state.global_step
        self.grok.update(self.state.global_step, self.latest)
        self.saving.spent["evaluation"] += self.latest[f"{metric_key_prefix}_seconds"]
        self.log({**self.latest, **self.saving.shares()})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, self.latest)
        return self.latest

    def evaluate_every_row(self) -> dict[str, float]:
        """The same of all rows of every split, logged as `final_...`; the last evaluation, where that had them all."""
        if self.recipe.options.max_eval_samples is None and self.latest_step == self.state.global_step:
            metrics = {key.replace("eval", "final", 1): value for key, value in self.latest.items()}
        else:
            metrics = self.evaluation.measure("final", None)
        self.log(metrics)
        return metrics

    def check_by_decoding(self, most: int = 256) -> None:
        """Decodes at most so many rows of each held-out split as a user would, and logs what comes of it."""
        self.log(self.evaluation.decode(self.held_out, most))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the Trainer, but with no history in its state: metrics.jsonl has it, and every save would rewrite it.

        With a training loss goes `replay_loss_share`, the share of it that is the loss of replayed text.
        """
        self.saving.writer.check()
        is_due = self.control.should_log and "loss" not in logs
        if "loss" in logs:
            logs |= self.sums.take_share()
        super().log(logs, start_time)
        self.control.should_log |= is_due  # a callback's log in the middle of a step takes no training loss away
        self.state.log_history.clear()

    # Saving

    def keep_step(self, metrics: Mapping[str, float]) -> None:
        """Keeps the weights of this step for ever; all processes must call it."""
        self.saving.keep(metrics)

    def fail(self) -> None:
        """Ends training without saving, as weights or losses are not finite; all processes must call it."""
        self.saving.fail()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.saving.checkpoint(lambda: super(GrokTrainer, self)._save_checkpoint(model, trial))

    def _get_output_dir(self, trial: Any) -> str:
        """Where the Trainer puts its `checkpoint-N`: a draft, which is renamed and listed once it is whole."""
        return str(self.saving.home or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Every weight, and an error for one that is missing: the Trainer passes over those that files name otherwise.

        It would go on with the output projection that a new GPT-NeoX is drawn with.
        """
        load_weights(
            self.accelerator.unwrap_model(self.model if model is None else model), Path(resume_from_checkpoint)
        )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Of a fork, with the keys of its own recipe in place of its parent's."""
        if self.fork:
            load = super()._load_optimizer_and_scheduler
            begin_fork(self.fork, self.optimizer, self.lr_scheduler, lambda: load(checkpoint))
        else:
            super()._load_optimizer_and_scheduler(checkpoint)
