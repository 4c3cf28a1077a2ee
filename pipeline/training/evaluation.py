"""What a trainer measures of a model: loss and exact match of every split, by one pass and by decoding."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from transformers import Trainer

from pipeline.data.labels import IGNORED
from pipeline.data.rows import Batch, Rows, stack
from pipeline.kernels.devices import widest
from pipeline.kernels.forward import Logits
from pipeline.objectives.base import Objective
from pipeline.runs.grokking import match_key
from pipeline.training.turns import Turns

Judged = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class WhereItRuns(Protocol):
    """Where an evaluation is computed: TrainingArguments say so of a training."""

    @property
    def device(self) -> Any: ...
    @property
    def eval_batch_size(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def process_index(self) -> int: ...


class Evaluation:
    """Measures the splits of a corpus, whose rows lie on the trainer's device."""

    def __init__(self, trainer: Trainer, objective: Objective, logits: Logits, splits: Mapping[str, Rows]):
        self.trainer: Any = trainer
        self.objective, self.logits, self.splits = objective, logits, splits
        self.stack: Turns | None = None  # who measures this run together with others
        self._stacked: dict[int | None, tuple[Rows, torch.Tensor]] = {}

    @torch.no_grad()
    def measure(self, prefix: str, most: int | None) -> dict[str, float]:
        """Loss and exact match of at most `most` rows of every split, in one teacher-forced pass.

        An answer counts when the argmax is right at each of its tokens, given the ones before: exactly then would
        greedy decoding produce it. Also `<prefix>_train_softmax_collapse`, the share of training answer tokens whose
        softmax is exactly 1 in float32 and has no gradient left (Prieto et al. 2025).
        """
        model, device = self.trainer.model, self.trainer.args.device
        if device.type == "cuda":
            torch.cuda.synchronize()  # steps that are under way are no part of the time it takes
        started = time.perf_counter()
        was_training = model.training
        model.eval()
        if most not in self._stacked:
            self._stacked[most] = stack([rows.sample(most, split) for split, rows in self.splits.items()])
        rows, split_N = self._stacked[most]
        sums_S4 = self._sums(rows, split_N).tolist()
        model.train(was_training)
        metrics: dict[str, float] = {}
        for split, count, (right, loss, tokens, collapsed) in zip(self.splits, split_N.bincount().tolist(), sums_S4):
            metrics[match_key(split, prefix)] = right / count
            metrics[f"{prefix}_{split}_loss"] = loss / tokens
            if split == "train":
                metrics[f"{prefix}_train_softmax_collapse"] = collapsed / tokens
        return {**metrics, f"{prefix}_seconds": time.perf_counter() - started}

    def _sums(self, rows: Rows, split_N: torch.Tensor) -> torch.Tensor:
        """For each split, over all processes: rows right, loss, answer tokens, collapsed softmaxes, (S, 4)."""
        if self.stack is not None and self.trainer.is_in_train:
            return self.stack.sums(rows, split_N, len(self.splits))
        return group_sums(self._judge, rows, split_N, len(self.splits), self.trainer.args)

    @torch.no_grad()
    def _judge(self, batch: Batch) -> Judged:
        return judge(self.logits(self.trainer.model_wrapped, batch), batch["labels"], self.objective)

    def decode(self, splits: Sequence[str], most: int) -> dict[str, float]:
        """Decodes at most so many rows of each of these splits as a user would.

        `final_<split>_greedy_exact_match`, and `final_<split>_greedy_agreement`: the share of these rows that decoding
        and the teacher-forced pass judge alike, which is 1 but for ties between tokens.
        """
        from pipeline.training.decoding import ExactMatch, decode_greedily

        metrics = {}
        model = self.trainer.model
        model.eval()
        for split in splits:
            rows = self.splits[split].sample(most, split)
            decoded, true = decode_greedily(model, rows)
            forced_B = self._judge(rows.__getitems__(torch.arange(len(rows), device=self.trainer.args.device)))[
                0
            ].tolist()
            alike = [(ours == answer) == forced for ours, answer, forced in zip(decoded, true, forced_B)]
            matches = ExactMatch().compute(predictions=decoded, references=true)
            metrics[f"final_{split}_greedy_exact_match"] = matches["exact_match"]
            metrics[f"final_{split}_greedy_agreement"] = sum(alike) / len(alike)
        return metrics


def judge(logits_BAV: torch.Tensor, labels_BA: torch.Tensor, objective: Objective) -> Judged:
    """Return which rows are right (B,), the loss (B, A), and whether the softmax is exactly 1 in float32 (B, A).

    Logits and labels of several runs (R, B, ...) give (R, B) and (R, B, A).
    """
    logits_BAV = logits_BAV.float()
    right_B = ((logits_BAV.argmax(-1) == labels_BA) | (labels_BA == IGNORED)).all(-1)
    loss_BA = objective.token_losses(logits_BAV, labels_BA)
    collapsed_BA = (logits_BAV - logits_BAV.amax(-1, keepdim=True)).exp().sum(-1) == 1
    return right_B, loss_BA, collapsed_BA


@torch.no_grad()
def group_sums(
    judged: Callable[[Batch], Judged], rows: Rows, group_N: torch.Tensor, groups: int, place: WhereItRuns
) -> torch.Tensor:
    """Sum what is judged of rows by the group of each, over all processes.

    Args:
        judged: What `judge` says of a batch.
        rows: Rows on the device of `place`.
        group_N: The number of the group of each row, < `groups`.
        groups: How many there are.
        place: Where it is computed; every process has to call this.

    Returns:
        For each group: rows that are right, loss, answer tokens, collapsed softmaxes, (groups, 4); where several runs
        are judged, (R, groups, 4).
    """
    exact = widest(place.device)
    sums_G4 = torch.zeros(groups, 4, dtype=exact, device=place.device)
    # As many batches on every process, as ZeRO-3 gathers weights together; rows past the end count for nothing.
    for start in range(0, len(rows), place.eval_batch_size * place.world_size):
        stop = min(start + place.eval_batch_size * place.world_size, len(rows))
        place_B = torch.arange(start + place.process_index, stop + place.world_size - 1, place.world_size)
        place_B = place_B.to(place.device)
        real_B1 = (place_B < stop)[:, None]
        place_B = place_B.clamp(max=stop - 1)
        batch = rows.__getitems__(place_B)
        right_B, loss_BA, collapsed_BA = judged(batch)
        counts_BA = (batch["labels"] != IGNORED) & real_B1
        counted_BA = counts_BA.expand_as(loss_BA)
        parts = (right_B[..., None] & real_B1, loss_BA * counts_BA, counted_BA, collapsed_BA & counts_BA)
        found_B4 = torch.stack([part.sum(-1, dtype=exact) for part in parts], -1)
        if sums_G4.ndim < found_B4.ndim:
            sums_G4 = sums_G4.repeat(len(found_B4), 1, 1)
        sums_G4.index_add_(-2, group_N[place_B], found_B4)
    if place.world_size > 1:
        dist.all_reduce(sums_G4)
    return sums_G4
