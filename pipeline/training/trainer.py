"""The Trainer subclass of runs: what is measured and logged, on top of saving and of the training step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainingArguments

from pipeline.callbacks.base import Callback
from pipeline.config.recipe import Recipe
from pipeline.data.labels import IGNORED
from pipeline.data.rows import Batch, Rows, stack
from pipeline.kernels.devices import widest
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import GrokTracker, judged_split, match_key
from pipeline.training.saving import SavingTrainer
from pipeline.training.trackers import shield


class GrokTrainer(SavingTrainer):
    """Trains a language model on the answer tokens of a corpus and watches every split.

    `splits` maps names to rows, `held_out` names those that are not trained; `train` among them is the probe of the
    training rows. Callbacks, trackers, accelerate and DeepSpeed work as in the Trainer.
    """

    folder: RunFolder  # for what comes after training

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
        self.held_out = held_out
        self.grok = GrokTracker(judged_split(held_out))
        self.latest: dict[str, float] = {}  # what the last evaluation found,
        self.latest_step: int | None = None  # and at which step
        self._stacked: dict[int | None, tuple[Rows, torch.Tensor]] = {}
        super().__init__(model, args, recipe, train_rows, splits, tokenizer)
        self.remove_callback(PrinterCallback)
        shield(self.callback_handler.callbacks)
        self.splits = {name: rows.to(args.device) for name, rows in splits.items()}
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

    def outcome(self) -> dict[str, Any]:
        """What the manifest says of a finished run: where it ended, how long it was to be, and what was reached."""
        ended = {"step": self.state.global_step, "stopped": self.state.global_step < self.total_steps}
        asked = {} if self.args.max_steps > 0 else {"num_train_epochs": self.args.num_train_epochs}
        return {**ended, **asked, "streak": self.grok.streak, **self.grok.summary()}

    def load_weights(self, checkpoint: str) -> None:
        """The weights of a checkpoint, to be measured and not trained further."""
        self._load_from_checkpoint(checkpoint)
        self.state.global_step = _step_of(checkpoint)

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
        self.spent["evaluation"] += self.latest[f"{metric_key_prefix}_seconds"]
        self.log({**self.latest, **self.shares()})
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
        if self.args.device.type == "cuda":
            torch.cuda.synchronize()  # steps that are under way are no part of the time it takes
        started = time.perf_counter()
        was_training = self.model.training
        self.model.eval()
        if most not in self._stacked:
            self._stacked[most] = stack([rows.sample(most, split) for split, rows in self.splits.items()])
        rows, split_N = self._stacked[most]
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
        exact = widest(args.device)
        sums_S4 = torch.zeros(len(self.splits), 4, dtype=exact, device=args.device)
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
            sums_S4.index_add_(0, split_N[place_B], torch.stack([part.sum(1, dtype=exact) for part in parts], 1))
        if args.world_size > 1:
            dist.all_reduce(sums_S4)
        return sums_S4

    def check_by_decoding(self, most: int = 256) -> None:
        """Decodes at most so many rows of each held-out split as a user would, and logs what comes of it.

        `final_<split>_greedy_exact_match`, and `final_<split>_greedy_agreement`: the share of these rows that decoding
        and the teacher-forced pass judge alike, which is 1 but for ties between tokens.
        """
        from pipeline.training.decoding import ExactMatch, decode_greedily

        logs = {}
        self.model.eval()
        for split in self.held_out:
            rows = self.splits[split].sample(most, split)
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
        logits_BAV = self.logits(self.model_wrapped, batch).float()
        right_B = ((logits_BAV.argmax(-1) == labels_BA) | (labels_BA == IGNORED)).all(-1)
        loss_BA = self.recipe.objective.token_losses(logits_BAV, labels_BA)
        collapsed_BA = (logits_BAV - logits_BAV.amax(-1, keepdim=True)).exp().sum(-1) == 1
        return right_B, loss_BA, collapsed_BA

    # Logging

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the Trainer, but with no history in its state: metrics.jsonl has it, and every save would rewrite it.

        With a training loss goes `replay_loss_share`, the share of it that is the loss of replayed text.
        """
        self.writer.check()
        if self.of_text is not None and "loss" in logs:
            if self.args.world_size > 1:
                dist.all_reduce(self.of_text)
            text, all_tokens = self.of_text.tolist()
            logs["replay_loss_share"] = text / all_tokens if all_tokens else 0.0
            self.of_text.zero_()
        super().log(logs, start_time)
        self.state.log_history.clear()


def _step_of(checkpoint: str) -> int:
    return int(checkpoint.rpartition("-")[2])
