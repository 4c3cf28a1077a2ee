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
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.callbacks._states import load_states, save_states
from pipeline.data.rows import Rows
from pipeline.data.stream import Replayed
from pipeline.models.adapters import ADAPTER, adapter, layers, merged, save_adapter
from pipeline.models.loading import load_weights
from pipeline.models.readers import complete, for_readers
from pipeline.runs import checkpoints
from pipeline.runs.forks import Fork
from pipeline.training.forking import apply_keys
from pipeline.training.loop import StepTrainer
from pipeline.training.writer import Writer
from pipeline.utils.drafts import draft_folder
from pipeline.utils.files import writing
from pipeline.utils.seeds import seed_dropout


class SavingTrainer(StepTrainer):
    """A StepTrainer that keeps steps and saves checkpoints, both only of weights that are finite."""

    def __init__(self, *inputs: Any, **kwargs: Any):
        self.writer = Writer()
        self.spent = {"evaluation": 0.0, "saving": 0.0}  # seconds for which training waited
        self.began = time.perf_counter()
        self.failure: str | None = None  # why training cannot go on
        self.stopped_by: str | None = None  # the signal after which it was saved and ended
        self.fork: Fork | None = None  # where it begins, until it has a checkpoint of its own
        self._home: Path | None = None  # of the checkpoint that is being saved
        super().__init__(*inputs, **kwargs)

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        if resume_from_checkpoint:
            load_states(self.callback_handler.callbacks, Path(resume_from_checkpoint))
            if isinstance(self.train_rows, Replayed):
                self.train_rows.stream.resume(Path(resume_from_checkpoint))
        # Going on, the generators' states of the checkpoint take their place, where this process left them there.
        begin = int(str(resume_from_checkpoint).rpartition("-")[2]) if resume_from_checkpoint else 0
        seed_dropout(self.args.seed, self.args.process_index, begin)
        self.began, self.spent = time.perf_counter(), dict.fromkeys(self.spent, 0.0)
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.writer.wait()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Every weight, and an error for one that is missing: the Trainer passes over those that files name otherwise.

        It would go on with the output projection that a new GPT-NeoX is drawn with.
        """
        load_weights(
            self.accelerator.unwrap_model(self.model if model is None else model), Path(resume_from_checkpoint)
        )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Of a fork, with the keys of its own recipe in place of its parent's."""
        if not self.fork:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        kept = ("params", "lr")
        fresh = [{key: value for key, value in group.items() if key not in kept} for group in self._groups]
        rates = list(getattr(self.lr_scheduler, "base_lrs", ()))
        if self.fork.is_resumable:
            super()._load_optimizer_and_scheduler(checkpoint)
        else:
            self.lr_scheduler.last_epoch = self.fork.step
        apply_keys(self._groups, self.lr_scheduler, fresh, rates)

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", cast(Any, self.optimizer).param_groups)

    def shares(self) -> dict[str, float]:
        """The share of the time since training began that training waited for evaluation and for saving."""
        passed = time.perf_counter() - self.began
        return {f"{what}_share": seconds / passed for what, seconds in self.spent.items()}

    def keep_step(self, metrics: Mapping[str, float]) -> None:
        """Keeps the weights of this step for ever, as a folder for `from_pretrained`; all processes must call it.

        The weights are copied, and written while training goes on; an error in writing is raised by the next log.
        """
        started = time.perf_counter()
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        if layers(self.model):
            weights = merged(self.model)
        else:
            weights = self.accelerator.get_state_dict(self.model_wrapped) if sharded else self.model.state_dict()
        if self.is_world_process_zero() and not self.failure:
            copy, whole = self.writer.copy(weights)
            model, run, step = self.accelerator.unwrap_model(self.model), self.recipe.output_dir, self.state.global_step
            matches = {
                key: value for key, value in metrics.items() if key.startswith("eval_") and key != "eval_seconds"
            }
            low_rank = adapter(self.model)
            kept = (self.tokenizer_for_readers, self.longest_answer)
            self.writer.start(lambda: _write(model, *kept, copy, low_rank, whole, run, step, matches))
        self.spent["saving"] += time.perf_counter() - started

    @cached_property
    def tokenizer_for_readers(self) -> PreTrainedTokenizerBase:
        """The tokenizer as it is kept beside weights."""
        return for_readers(cast(PreTrainedTokenizerBase, self.processing_class), self.model.config)

    @cached_property
    def longest_answer(self) -> int:
        """Tokens of the longest answer of any split."""
        splits = cast("dict[str, Rows]", self.eval_dataset)
        return max(int(rows.answer_N.max()) for rows in splits.values())

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """A resumable checkpoint, sealed with its hashes once it is whole; the oldest ones go only then.

        Steps that were kept before it are on the disk by then, since who resumes from it will not write them again.
        """
        if self.failure or not self.weights_are_finite():
            self.fail()
            return
        started = time.perf_counter()
        run, step = self.recipe.output_dir, self.state.global_step
        name = f"checkpoint-{step}"
        self.writer.wait()
        first = self.is_world_process_zero()
        with writing(run / name), draft_folder(run, name) if first else nullcontext() as draft:
            home = self._home = broadcast_object_list([draft.home if draft else None])[0]
            super()._save_checkpoint(model, trial)
            if first:
                save_states(self.callback_handler.callbacks, home / name)
                if isinstance(self.train_rows, Replayed):
                    self.train_rows.stream.save(home / name)
            if self.args.world_size > 1:
                dist.barrier()
            facts = self._hash_together(home / name)
            if draft:
                draft.publish()
                checkpoints.list_checkpoint(run, step, facts)
        self._home = None
        if first:
            with writing(run / name):
                checkpoints.retire(run, self.recipe.training["save_total_limit"])
        self.spent["saving"] += time.perf_counter() - started

    def _get_output_dir(self, trial: Any) -> str:
        """Where the Trainer puts its `checkpoint-N`: a draft, which is renamed and listed once it is whole."""
        return str(self._home or self.args.output_dir)

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
