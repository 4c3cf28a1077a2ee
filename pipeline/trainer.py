"""The Trainer subclass: answer-only loss on rows that lie on the device, and all splits evaluated in one pass."""

from __future__ import annotations

import math
import shutil
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainingArguments

from pipeline import checkpoints
from pipeline.callbacks.base import Callback
from pipeline.data import IGNORED, AnswerPositions, Batch, RowOrder, Rows, loader, stack
from pipeline.files import DiskError, writing
from pipeline.grokking import GrokTracker, match_key
from pipeline.recipe import Recipe


class GrokTrainer(Trainer):
    """Trains a language model on the answer tokens of a corpus and watches every split.

    `splits` maps names to rows, `held_out` names those that are not trained; `train` among them is the probe of the
    training rows. Callbacks, trackers, accelerate and DeepSpeed work as in the Trainer.
    """

    model: Any

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
    ):
        self.recipe = recipe
        self.held_out = held_out
        self.grok = GrokTracker()
        self.latest: dict[str, float] = {}  # what the last evaluation found,
        self.latest_step: int | None = None  # and at which step
        self.losses: deque[tuple[int, torch.Tensor]] = deque(maxlen=10_000)  # of this process since the last log
        self.failure: str | None = None  # why training cannot go on
        self.stopped_by: str | None = None  # the signal after which it was saved and ended
        super().__init__(model, args, processing_class=tokenizer, train_dataset=train_rows, eval_dataset=dict(splits))
        self.remove_callback(PrinterCallback)
        self.splits = {name: rows.to(args.device) for name, rows in splits.items()}
        self.train_rows = train_rows.to(args.device)
        self.answer_positions = AnswerPositions(model.get_output_embeddings())
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

    def is_done(self, checkpoint: str | None) -> bool:
        """Whether a run that stopped at this checkpoint had been trained to its end."""
        if checkpoint is None:
            return False
        options = self.recipe.options
        grokked = options.stop_when == "grokked" and self.grok.streak >= options.stop_patience
        return grokked or _step_of(checkpoint) >= self.total_steps

    def load_weights(self, checkpoint: str) -> None:
        """The weights of a checkpoint, to be measured and not trained further."""
        self._load_from_checkpoint(checkpoint)
        self.state.global_step = _step_of(checkpoint)

    # Data

    def get_train_dataloader(self) -> DataLoader[Batch]:
        args = self.args
        order = RowOrder(
            len(self.train_rows),
            args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            micro=args.train_batch_size,
            rank=args.process_index,
            ranks=args.world_size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            updates_done=lambda: self.state.global_step,
            device=args.device,
        )
        return loader(self.train_rows, order)

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> int | torch.Tensor | None:
        """Answer tokens in the whole global batch, by which every process divides its summed loss."""
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        if self.train_rows.same_answer is not None:
            return rows * self.train_rows.same_answer
        tokens = torch.stack([(batch["labels"] != IGNORED).sum() for batch in batch_samples]).sum()
        if self.args.world_size > 1:
            dist.all_reduce(tokens)
        return tokens

    # Step

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
        """Cross-entropy, in float32, summed over this batch's answer tokens and divided by `num_items_in_batch`.

        Multiplied by the number of processes, since gradients are averaged over them.
        """
        logits_BAV = self.answer_positions.logits(model, inputs)
        labels = inputs["labels"].flatten()
        total = F.cross_entropy(logits_BAV.float().flatten(0, 1), labels, ignore_index=IGNORED, reduction="sum")
        items = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        loss = total * (self.args.world_size / items)
        return (loss, {"logits": logits_BAV}) if return_outputs else loss

    def floating_point_ops(self, inputs: Batch) -> int:
        """Not counted: the Trainer's count walks over all parameters at every step, and counts pads."""
        return 0

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        names = [name for name, _ in model.named_parameters()]
        if not self.recipe.options.decay_norms_and_biases:
            wanted = set(super().get_decay_parameter_names(model))
            names = [name for name in names if name in wanted]
        if not self.recipe.options.decay_embeddings:
            embeddings = {
                id(parameter)
                for module in model.modules()
                if isinstance(module, nn.Embedding)
                for parameter in module.parameters()
            }
            parameters = dict(model.named_parameters())
            names = [name for name in names if id(parameters[name]) not in embeddings]
        return names

    # Evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss and exact match of at most `max_eval_samples` rows of every split, in one teacher-forced pass.

        An answer counts when the argmax is right at each of its tokens, given the ones before: exactly then would
        greedy decoding produce it. Also `eval_train_softmax_collapse`, the share of training answer tokens whose
        softmax is exactly 1 in float32 and has no gradient left (Prieto et al. 2025).
        """
        self.latest = self._measure(metric_key_prefix, self.recipe.options.max_eval_samples)
        self.latest_step = self.state.global_step
        self.grok.update(self.state.global_step, self.latest)
        self.log(self.latest)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, self.latest)
        return self.latest

    def evaluate_every_row(self) -> dict[str, float]:
        """The same of all rows of every split, logged as `final_...`; the last evaluation, where that had them all."""
        if self.recipe.options.max_eval_samples is None and self.latest_step == self.state.global_step:
            metrics = {key.replace("eval", "final", 1): value for key, value in self.latest.items()}
        else:
            metrics = self._measure("final", None)
        self.log(metrics)
        return metrics

    @torch.no_grad()
    def _measure(self, prefix: str, most: int | None) -> dict[str, float]:
        started = time.perf_counter()
        was_training = self.model.training
        self.model.eval()
        rows, split_N = stack([part.first(most) if most else part for part in self.splits.values()])
        sums_S4 = self._sums(rows, split_N).tolist()
        self.model.train(was_training)
        metrics: dict[str, float] = {}
        for split, count, (right, loss, tokens, collapsed) in zip(self.splits, split_N.bincount().tolist(), sums_S4):
            metrics[match_key(split, prefix)] = right / count
            metrics[f"{prefix}_{split}_loss"] = loss / tokens
            if split == "train":
                metrics[f"{prefix}_train_softmax_collapse"] = collapsed / tokens
        return {**metrics, f"{prefix}_seconds": time.perf_counter() - started}

    def _sums(self, rows: Rows, split_N: torch.Tensor) -> torch.Tensor:
        """For each split, over all processes: rows right, loss, answer tokens, collapsed softmaxes, (S, 4)."""
        args = self.args
        sums_S4 = torch.zeros(len(self.splits), 4, dtype=torch.float64, device=args.device)
        # As many batches on every process, as ZeRO-3 gathers weights together; rows past the end count for nothing.
        for start in range(0, len(rows), args.eval_batch_size * args.world_size):
            stop = min(start + args.eval_batch_size * args.world_size, len(rows))
            place_B = torch.arange(start + args.process_index, stop + args.world_size - 1, args.world_size)
            place_B = place_B.to(args.device)
            real_B1 = (place_B < stop)[:, None]
            place_B = place_B.clamp(max=stop - 1)
            batch = rows.__getitems__(place_B)
            right_B, loss_BA, collapsed_BA = self._judge(batch)
            counts_BA = (batch["labels"] != IGNORED) & real_B1
            parts = (right_B[:, None] & real_B1, loss_BA * counts_BA, counts_BA, collapsed_BA & counts_BA)
            sums_S4.index_add_(
                0, split_N[place_B], torch.stack([part.sum(1, dtype=torch.float64) for part in parts], 1)
            )
        if args.world_size > 1:
            dist.all_reduce(sums_S4)
        return sums_S4

    def check_by_decoding(self, most: int = 256) -> None:
        """Decodes the first rows of each held-out split as a user would, and logs what comes of it.

        `final_<split>_greedy_exact_match`, and `final_<split>_greedy_agreement`: the share of these rows that decoding
        and the teacher-forced pass judge alike, which is 1 but for ties between tokens.
        """
        from pipeline.metrics import ExactMatch, decode_greedily

        logs = {}
        self.model.eval()
        for split in self.held_out:
            rows = self.splits[split].first(most)
            decoded, true = decode_greedily(self.model, rows)
            forced_B = self._judge(rows.__getitems__(torch.arange(len(rows), device=self.args.device)))[0].tolist()
            alike = [(ours == answer) == forced for ours, answer, forced in zip(decoded, true, forced_B)]
            matches = ExactMatch().compute(predictions=decoded, references=true)
            logs[f"final_{split}_greedy_exact_match"] = matches["exact_match"]
            logs[f"final_{split}_greedy_agreement"] = sum(alike) / len(alike)
        self.log(logs)

    @torch.no_grad()
    def _judge(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Which rows are right (B,), the loss (B, A), and whether the softmax is exactly 1 in float32 (B, A)."""
        labels_BA = batch["labels"]
        logits_BAV = self.answer_positions.logits(self.model_wrapped, batch).float()
        right_B = ((logits_BAV.argmax(-1) == labels_BA) | (labels_BA == IGNORED)).all(-1)
        loss_BA = F.cross_entropy(logits_BAV.transpose(1, 2), labels_BA, ignore_index=IGNORED, reduction="none")
        collapsed_BA = (logits_BAV - logits_BAV.amax(-1, keepdim=True)).exp().sum(-1) == 1
        return right_B, loss_BA, collapsed_BA

    # Logging and saving

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the Trainer, but with no history in its state: metrics.jsonl has it, and every save would rewrite it."""
        super().log(logs, start_time)
        self.state.log_history.clear()

    def keep_step(self, metrics: Mapping[str, float]) -> None:
        """Keeps the weights of this step for ever, as a folder for `from_pretrained`; all processes must call it."""
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        weights = self.accelerator.get_state_dict(self.model_wrapped) if sharded else None
        if self.is_world_process_zero() and not self.failure:
            save = partial(self.accelerator.unwrap_model(self.model).save_pretrained, state_dict=weights)
            matches = {
                key: value for key, value in metrics.items() if key.startswith("eval_") and key != "eval_seconds"
            }
            checkpoints.keep(self.recipe.output_dir, self.state.global_step, save, matches)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """A resumable checkpoint, sealed with its hashes once it is whole; the oldest ones go only then."""
        if self.failure or not self.weights_are_finite():
            self.fail()
            return
        run, step = self.recipe.output_dir, self.state.global_step
        folder = run / f"checkpoint-{step}"
        try:
            with writing(folder):
                super()._save_checkpoint(model, trial)
                if self.args.world_size > 1:
                    dist.barrier()
                facts = self._hash_together(folder)
                if self.is_world_process_zero():
                    checkpoints.seal(run, step, self.recipe.training["save_total_limit"], facts)
        except DiskError:
            shutil.rmtree(folder, ignore_errors=True)  # it is worth nothing, and the disk may be full
            raise

    def _hash_together(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Hash and size of every file of a checkpoint, each process taking a share of them."""
        ranks = self.args.world_size
        if ranks == 1:
            return checkpoints.facts_of(folder, checkpoints.files_of(folder))
        names = broadcast_object_list([checkpoints.files_of(folder)])[0]
        facts = checkpoints.facts_of(folder, names[self.args.process_index :: ranks])
        parts: list[Any] = [None] * ranks
        dist.all_gather_object(parts, facts)
        return dict(sorted(item for part in parts for item in part.items()))

    def weights_are_finite(self) -> bool:
        """Whether every weight on every process is; under ZeRO-3 each process looks at its share."""
        weights = [getattr(weight, "ds_tensor", weight).detach() for weight in self.model.parameters()]
        bad = (~torch.stack(torch._foreach_norm(weights)).isfinite().all()).float()
        if self.args.world_size > 1:
            dist.all_reduce(bad)
        return not bad

    def fail(self) -> None:
        """Ends training without saving, and names the step whose loss was the first that is not finite.

        All processes must call it.
        """
        bad = [step for step, loss in self.losses if not loss.isfinite()]
        first = torch.tensor(min(bad, default=self.state.global_step), device=self.args.device)
        if self.args.world_size > 1:
            dist.all_reduce(first, dist.ReduceOp.MIN)
        self.failure = self.failure or f"the loss is not finite at step {first.item()}"
        self.control.should_training_stop = True
        self.control.should_save = self.control.should_evaluate = False


def _step_of(checkpoint: str) -> int:
    return int(checkpoint.rpartition("-")[2])
