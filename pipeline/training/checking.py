"""What a run would take on this machine: it is prepared as for training, and a few of its updates are timed.

All that is written lies in a folder for the time being, which is removed.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from pipeline.callbacks.console import Console
from pipeline.circuits.runner import check_analyses, check_model
from pipeline.config.recipe import Recipe
from pipeline.config.registry import load, names, room_name
from pipeline.runs.checkpoints import KeepSchedule, choose_among
from pipeline.runs.layout import TOKENIZER
from pipeline.training.session import prepare
from pipeline.training.trainer import GrokTrainer
from pipeline.utils.errors import ParameterError
from pipeline.utils.files import free_space
from pipeline.utils.format import amount, duration, listed, size

WARM_UP, TIMED = 4, 3  # updates: on a GPU the fourth is captured as a graph, see kernels/cuda_graph


@dataclass(frozen=True)
class Checked:
    """A run's sizes, and what was measured of it here; bytes and seconds."""

    recipe: Recipe
    steps: int
    steps_an_epoch: int
    rows: int
    tokens: int  # of all training rows, prompts and answers
    answers: int  # of these, the ones that are trained
    splits: Mapping[str, int]
    parameters: int
    vocabulary: int
    kept: int
    kept_bytes: int  # of one kept step
    checkpoint_bytes: int
    free: int  # on the disk of the run's folder
    memory: int  # of a GPU, or of the process
    memory_there: int
    on_gpu: bool
    device: str
    step_seconds: float
    evaluations: int
    evaluation_seconds: float
    asked: Mapping[str, int]  # analyses of the recipe -> steps that they look at
    analyses: Mapping[str, str]  # all of them -> why one cannot look at this run; empty where it can

    @property
    def disk(self) -> int:
        """Of kept steps and checkpoints; while one checkpoint is written, the one that it replaces is there too."""
        checkpoints = (self.recipe.training["save_total_limit"] or self._saves) + 1
        return self.kept * self.kept_bytes + min(checkpoints, self._saves + 1) * self.checkpoint_bytes

    @property
    def _saves(self) -> int:
        """How many checkpoints it saves in all."""
        every, how = self.recipe.training.get("save_steps", 500), self.recipe.training.get("save_strategy", "steps")
        if str(how) == "no":
            return 0
        if str(how) == "epoch":
            return max(self.steps // self.steps_an_epoch, 1)
        return max(int(self.steps // every if every >= 1 else 1 / every), 1)

    @property
    def fits_disk(self) -> bool:
        return self.disk < self.free

    @property
    def seconds(self) -> float:
        """Of training to the last step, with its evaluations."""
        return self.steps * self.step_seconds + self.evaluations * self.evaluation_seconds

    def lines(self) -> list[str]:
        """All of it in words."""
        recipe = self.recipe
        epochs = f"{self.steps / self.steps_an_epoch:,.1f}".removesuffix(".0")
        sizes = ", ".join(f"{split} {count:,}" for split, count in self.splits.items() if split != "train")
        fitting = [name for name, reason in self.analyses.items() if not reason and name not in self.asked]
        others = [f"{name} ({reason})" for name, reason in self.analyses.items() if reason]
        asked = [f"{name} at {count} step{'s' * (count != 1)}" for name, count in self.asked.items()]
        may_stop = "; it stops earlier once it has grokked" if recipe.options.stop_when == "grokked" else ""
        found = {
            "corpus": f"{room_name(recipe.corpus)}: {self.rows:,} rows to train, {self.tokens:,} tokens, "
            f"{self.answers:,} of them answers; {sizes}",
            "model": f"{room_name(recipe.model)}: {self.parameters:,} parameters, {self.vocabulary:,} tokens",
            "steps": f"{self.steps:,} of {recipe.options.global_batch_size:,} rows; {self.steps_an_epoch:,} an epoch, "
            f"{epochs} epoch{'s' * (epochs != '1')}",
            "disk": f"{size(self.disk)} of {size(self.free)} that are free: {self.kept} kept steps of "
            f"{size(self.kept_bytes)}, checkpoints of {size(self.checkpoint_bytes)}"
            + ("" if self.fits_disk else "; THAT IS TOO MUCH"),
            "analyses": listed(asked) or "none is asked for",
            "  would fit": listed(fitting) or "no other",
            "  would not": "; ".join(others) or "no other",
            "memory": f"{size(self.memory)} of {size(self.memory_there)} on the {'GPU' if self.on_gpu else 'machine'}",
            "speed": f"{rate(self.step_seconds)} on {self.device}, by {TIMED} steps; an evaluation takes "
            f"{amount(self.evaluation_seconds)} s, and there are {self.evaluations}",
            "time": f"about {hours(self.seconds)} for all steps and evaluations, without saving and analyses{may_stop}",
        }
        return [f"{key:<12}{text}" for key, text in found.items()]


def check(recipe: Recipe) -> Checked:
    """Prepares a run, trains a few of its updates, and leaves nothing behind; every process must call it.

    Raises:
        RecipeError, ParameterError: at a mistake that shows only with corpus, model and device.
    """
    with tempfile.TemporaryDirectory(prefix="groklab-check-") as folder:
        aside = {"output_dir": folder, "report_to": "none", "save_strategy": "no", "eval_strategy": "no"}
        trainer = prepare(
            dataclasses.replace(
                recipe,
                training={**recipe.training, **aside},
                checkpoints=KeepSchedule(initial=False, powers_of_two=False),
                callbacks={**recipe.callbacks, "console": Console(style="off")},
            )
        )
        steps = trainer.total_steps  # before the clock ends training
        trainer.fork = None  # its weights are loaded, and the optimizer's state changes no time
        clock = _Clock(trainer)
        trainer.add_callback(clock)
        trainer.train()
        trainer.evaluate()
        return _described(recipe, trainer, steps, sum(clock.seconds) / len(clock.seconds), Path(folder))


def _described(recipe: Recipe, trainer: GrokTrainer, steps: int, step_seconds: float, folder: Path) -> Checked:
    rows, args, model = trainer.train_rows, trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    an_epoch = -(-len(rows) // trainer.loop.rows_per_update)
    weights = _bytes(model.state_dict().values())
    state = getattr(trainer.loop.optimizer, "state", {})
    moments = _bytes(each for one in state.values() for each in one.values() if isinstance(each, torch.Tensor))
    beside = sum(file.stat().st_size for file in (folder / TOKENIZER).glob("*"))
    kept = recipe.checkpoints.steps(steps) | {steps}
    cuda = args.device.type == "cuda"
    if cuda:
        memory, there = torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties(args.device).total_memory
        device = torch.cuda.get_device_name(args.device)
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        device = f"the CPU with {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
    device += f" in {args.world_size} processes" if args.world_size > 1 else ""
    return Checked(
        recipe=recipe,
        steps=steps,
        steps_an_epoch=an_epoch,
        rows=len(rows),
        tokens=int((rows.prompt_N + rows.answer_N).sum()),
        answers=int(rows.answer_N.sum()),
        splits={split: len(each) for split, each in trainer.splits.items()},
        parameters=sum(weight.numel() for weight in model.parameters()),
        vocabulary=model.config.vocab_size,
        kept=len(kept),
        kept_bytes=weights + beside,
        checkpoint_bytes=weights + moments + beside,
        free=free_space(recipe.output_dir),
        memory=memory,
        memory_there=there,
        on_gpu=cuda,
        device=device,
        step_seconds=step_seconds,
        evaluations=len(_evaluated(recipe, steps, an_epoch) | kept),
        evaluation_seconds=trainer.latest["eval_seconds"],
        asked={name: len(choose_among(sorted(kept), each.steps)) for name, each in recipe.circuits.items()},
        analyses=_analyses(recipe, trainer, model),
    )


def _analyses(recipe: Recipe, trainer: GrokTrainer, model: Any) -> dict[str, str]:
    """Every analysis, and why one cannot look at this run; those of the recipe have been checked."""
    found = dict.fromkeys(recipe.circuits, "")
    if recipe.peft or not trainer.is_world_process_zero():
        return found
    for name in names("circuits"):
        if name in found:
            continue
        try:
            kind: Any = load("circuits", name, "circuits")
            alone = dataclasses.replace(recipe, circuits={name: kind()})
            check_model(alone, model, check_analyses(alone, trainer.folder.stored))
            found[name] = ""
        except ParameterError as error:
            found[name] = error.message.removeprefix("cannot look at this model: ")
    return found


def _evaluated(recipe: Recipe, steps: int, an_epoch: int) -> set[int]:
    """The steps at which a run is measured, but for those that it keeps."""
    how, every = str(recipe.training.get("eval_strategy", "steps")), recipe.training.get("eval_steps") or 500
    if how == "no":
        return {0, steps}
    every = an_epoch if how == "epoch" else max(int(every if every >= 1 else every * steps), 1)
    return {0, *range(every, steps + 1, every), steps}


class _Clock(TrainerCallback):
    """Times the updates after the first few, and ends training then. `seconds`: of each."""

    def __init__(self, trainer: GrokTrainer):
        self.device, self.last = trainer.args.device, min(WARM_UP + TIMED, trainer.total_steps)
        self.seconds: list[float] = []
        self.began = 0.0

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = self._now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds = [*self.seconds, self._now() - self.began][-TIMED:]
        control.should_training_stop = state.global_step >= self.last


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of tensors, those that share their memory counted once."""
    return sum({each.data_ptr(): each.numel() * each.element_size() for each in tensors}.values())


def rate(seconds: float) -> str:
    """How quick steps of these seconds are."""
    return f"{1 / seconds:,.3g} steps/s" if seconds < 1 else f"{seconds:,.3g} s a step"


def hours(seconds: float) -> str:
    """A time in words, and in hours where it is one or more."""
    hours = seconds / 3600
    return f"{duration(seconds)} ({hours:,.2g} hours)" if seconds >= 5400 else duration(seconds)
