"""What a trainer writes: weights that are kept for ever, beside training, and checkpoints that it can resume from."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from pipeline.callbacks._states import load_states, save_states
from pipeline.config.recipe import Recipe
from pipeline.data.rows import Rows
from pipeline.data.stream import Replayed
from pipeline.models.adapters import ADAPTER, adapter, layers, merged, save_adapter
from pipeline.models.readers import complete, for_readers
from pipeline.runs import checkpoints
from pipeline.training.loop import Losses
from pipeline.training.writer import Writer
from pipeline.utils.drafts import draft_folder
from pipeline.utils.files import writing


class Saving:
    """Keeps steps and saves checkpoints, both only of weights that are finite.

    `failure`: why training cannot go on. `spent`: seconds for which training waited. `home`: where the checkpoint that
    is being saved lies until it is whole.
    """

    def __init__(self, trainer: Trainer, recipe: Recipe, rows: Rows, losses: Losses):
        self.trainer: Any = trainer
        self.recipe, self.rows, self.losses = recipe, rows, losses
        self.writer = Writer()
        self.failure: str | None = None
        self.spent = {"evaluation": 0.0, "saving": 0.0}
        self.began = time.perf_counter()
        self.home: Path | None = None

    def begin(self, checkpoint: str | None) -> None:
        """Starts the clock, and gives callbacks and replayed text what a checkpoint holds of them."""
        if checkpoint:
            load_states(self.trainer.callback_handler.callbacks, Path(checkpoint))
            if isinstance(self.rows, Replayed):
                self.rows.stream.resume(Path(checkpoint))
        self.began, self.spent = time.perf_counter(), dict.fromkeys(self.spent, 0.0)

    def shares(self) -> dict[str, float]:
        """Return the share of the time since training began that training waited for evaluation and for saving."""
        passed = time.perf_counter() - self.began
        return {f"{what}_share": seconds / passed for what, seconds in self.spent.items()}

    def keep(self, metrics: Mapping[str, float]) -> None:
        """Keeps the weights of this step for ever, as a folder for `from_pretrained`; all processes must call it.

        The weights are copied, and written while training goes on; an error in writing is raised by the next log.
        """
        started = time.perf_counter()
        trainer = self.trainer
        sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
        if layers(trainer.model):
            weights = merged(trainer.model)
        else:
            whole_state = trainer.accelerator.get_state_dict
            weights = whole_state(trainer.model_wrapped) if sharded else trainer.model.state_dict()
        if trainer.is_world_process_zero() and not self.failure:
            copy, whole = self.writer.copy(weights)
            model, run = trainer.accelerator.unwrap_model(trainer.model), self.recipe.output_dir
            step = trainer.state.global_step
            matches = {
                key: value for key, value in metrics.items() if key.startswith("eval_") and key != "eval_seconds"
            }
            low_rank = adapter(trainer.model)
            kept = (self.tokenizer_for_readers, self.longest_answer)
            self.writer.start(lambda: _write(model, *kept, copy, low_rank, whole, run, step, matches))
        self.spent["saving"] += time.perf_counter() - started

    @cached_property
    def tokenizer_for_readers(self) -> PreTrainedTokenizerBase:
        """The tokenizer as it is kept beside weights."""
        tokenizer = cast(PreTrainedTokenizerBase, self.trainer.processing_class)
        return for_readers(tokenizer, self.trainer.model.config)

    @cached_property
    def longest_answer(self) -> int:
        """Tokens of the longest answer of any split."""
        splits = cast("dict[str, Rows]", self.trainer.eval_dataset)
        return max(int(rows.answer_N.max()) for rows in splits.values())

    def checkpoint(self, save: Callable[[], None]) -> None:
        """Save a resumable checkpoint, sealed with its hashes once it is whole; the oldest ones go only then.

        Steps that were kept before it are on the disk by then, since who resumes from it will not write them again.

        Args:
            save: Writes the Trainer's files into `home`.
        """
        if self.failure or not self.weights_are_finite():
            self.fail()
            return
        started = time.perf_counter()
        trainer, run, step = self.trainer, self.recipe.output_dir, self.trainer.state.global_step
        name = f"checkpoint-{step}"
        self.writer.wait()
        first = trainer.is_world_process_zero()
        with writing(run / name), draft_folder(run, name) if first else nullcontext() as draft:
            home = self.home = broadcast_object_list([draft.home if draft else None])[0]
            save()
            losses = trainer.sums.state()
            if first:
                trainer.sums.save(losses, home / name)
                save_states(trainer.callback_handler.callbacks, home / name)
                if isinstance(self.rows, Replayed):
                    self.rows.stream.save(home / name)
            if trainer.args.world_size > 1:
                dist.barrier()
            facts = self._hash_together(home / name)
            if draft:
                draft.publish()
                checkpoints.list_checkpoint(run, step, facts)
        self.home = None
        if first:
            with writing(run / name):
                checkpoints.retire(run, self.recipe.training["save_total_limit"])
        self.spent["saving"] += time.perf_counter() - started

    def _hash_together(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Hash and size of every file of a checkpoint, each process taking a share of them."""
        args = self.trainer.args
        if args.world_size == 1:
            return checkpoints.facts_of(folder, checkpoints.files_of(folder))
        names = broadcast_object_list([checkpoints.files_of(folder)])[0]
        facts = checkpoints.facts_of(folder, names[args.process_index :: args.world_size])
        parts: list[Any] = [None] * args.world_size
        dist.all_gather_object(parts, facts)
        return dict(sorted(item for part in parts for item in part.items()))

    def weights_are_finite(self) -> bool:
        """Return whether every weight on every process is; under ZeRO-3 each process looks at its share."""
        weights = [getattr(weight, "ds_tensor", weight).detach() for weight in self.trainer.model.parameters()]
        bad = (~torch.stack(torch._foreach_norm(weights)).isfinite().all()).float()
        if self.trainer.args.world_size > 1:
            dist.all_reduce(bad)
        return not bad

    def fail(self) -> None:
        """Ends training without saving, and names the step whose loss was the first that is not finite.

        All processes must call it.
        """
        trainer = self.trainer
        bad = [step for step, loss in self.losses if not loss.isfinite()]
        first = torch.tensor(min(bad, default=trainer.state.global_step), device=trainer.args.device)
        if trainer.args.world_size > 1:
            dist.all_reduce(first, dist.ReduceOp.MIN)
        self.failure = self.failure or f"the loss is not finite at step {first.item()}"
        trainer.control.should_training_stop = True
        trainer.control.should_save = trainer.control.should_evaluate = False


def _write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    answer: int,
    weights: dict[str, torch.Tensor],
    low_rank: dict[str, torch.Tensor],
    whole: Callable[[], None],
    run: Path,
    step: int,
    metrics: Mapping[str, float],
) -> None:
    whole()

    def save(folder: Path) -> None:
        model.save_pretrained(folder, state_dict=weights)
        complete(folder, model, tokenizer, answer)
        tokenizer.save_pretrained(folder)  # so that the folder alone is enough for who loads it
        if low_rank:
            save_adapter(model, tokenizer, low_rank, folder / ADAPTER)

    checkpoints.keep(run, step, save, metrics)
