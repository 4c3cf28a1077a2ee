"""Runs of a sweep that are trained as one step: which of them can be, and the processes that train them.

A stack only trains. What comes after the last step (measuring all rows, analyses, the report) each run does by itself
afterwards, in a process of its own, from the checkpoint with which the stack has left it.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.identity import intervenes
from pipeline.config.recipe import Recipe, flat
from pipeline.config.registry import room_name
from pipeline.runs import stages
from pipeline.sweep.grid import LOG, Point
from pipeline.sweep.jobs import cores, failure, gpu_names, in_all, run_points, run_stages, side_by_side
from pipeline.sweep.slurm import array_file
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.files import write_bytes
from pipeline.utils.format import duration
from pipeline.utils.log import log
from pipeline.utils.signals import SAVED

# Keys in which the runs of a stack may differ.
PER_RUN = (
    *("seed", "data_seed", "corpus.seed", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("max_grad_norm", "lr_scheduler_type", "warmup_steps", "max_steps", "num_train_epochs"),
    *("stop_when", "stop_patience", "eval_steps", "logging_steps", "save_steps", "output_dir", "run_name"),
)
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")
# Flat keys that a stack does not know, with the values that mean nothing.
UNKNOWN = {
    **dict.fromkeys(("activation_checkpointing", "gradient_checkpointing", "torch_compile", "fp16"), (None, False)),
    **dict.fromkeys(("deepspeed", "fsdp", "optim_args", "neftune_noise_alpha", "debug"), (None, "", [], False)),
    "include_num_input_tokens_seen": (None, "no", False),
    "report_to": (None, "none", [], ["none"]),
    "save_strategy": ("steps",),
}
INNER_EVENTS = ("on_substep_end", "on_pre_optimizer_step", "on_optimizer_step")


def check_stackable(recipe: Recipe) -> None:
    """Check whether a run can be one of a stack, as far as its recipe says.

    Raises:
        ParameterError: that names the key to change.
    """
    training, batches = recipe.training, recipe.batches(1)
    objective = room_name(recipe.objective)
    if objective != "next_token":
        raise ParameterError("objective.name", f"{objective}: --stack trains next_token alone")
    for block, chosen in (("optimizer", recipe.optimizer), ("collator", recipe.collator)):
        for name in chosen:
            raise ParameterError(f"{block}.{name}", f"--stack knows no {block} beside AdamW's own step")
    for name, callback in recipe.callbacks.items():
        if intervenes(name) or any(hasattr(callback, event) for event in INNER_EVENTS):
            raise ParameterError(f"callbacks.{name}", "acts within an update, which --stack makes for all runs at once")
    for block, part in (("peft", recipe.peft), ("replay", recipe.replay), ("fork", recipe.options.fork)):
        if part:
            raise ParameterError(block, "does not go together with --stack; leave one of them out")
    if not recipe.options.fast:
        raise ParameterError("fast", "false: transformers' own loop trains one run; --stack has none of it")
    if (optim := training.get("optim", OPTIMIZERS[1])) not in OPTIMIZERS:
        raise ParameterError("optim", f"{optim}: --stack knows {' and '.join(OPTIMIZERS)}")
    for key, nothing in UNKNOWN.items():
        if key in training and training[key] not in nothing:
            raise ParameterError(key, f"{training[key]}: --stack takes {nothing[-1] or 'none'} alone")
    if batches["gradient_accumulation_steps"] > 1:
        rows = batches["per_device_train_batch_size"]
        raise ParameterError("per_device_train_batch_size", f"{rows}: --stack takes the whole batch of a run at once")


@dataclass
class StackOfRuns:
    """Runs that are trained together, and the process that trains them."""

    name: str
    points: list[Point]
    folder: Path
    waits: bool = False
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    started: float = 0.0

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.{LOG}"

    def write(self) -> Path:
        """Writes what its runs are into a file, named by its content."""
        content = array_file([[*point.command, "--callbacks.console.style=plain"] for point in self.points])
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.name}-{hashlib.sha256(content).hexdigest()[:8]}.words"
        write_bytes(path, content)
        outcome_of(path).unlink(missing_ok=True)
        return path


def read_words(path: Path) -> list[list[str]]:
    """The words of each run in a file that `array_file` wrote."""
    runs = path.read_bytes().decode(errors="surrogateescape").split("\0\0")
    return [run.split("\0") for run in runs if run]


def outcome_of(words: Path) -> Path:
    """The file in which a stack says how the training of its runs ended: at their last step, or why before."""
    return words.with_suffix(".json")


def stacks_of(points: Sequence[Point], most: int) -> list[StackOfRuns]:
    """Puts unfinished runs into stacks of at most `most`; one that stands alone is in none.

    Raises:
        RecipeError: when one of them cannot be stacked, or no two go together.
    """
    if most < 2:
        raise RecipeError("command line", f"--stack {most}: is not a number of runs to train as one step, 2 or more")
    alike: dict[str, list[Point]] = {}
    for point in points:
        try:
            check_stackable(point.recipe)
        except ParameterError as error:
            raise point.recipe.located(error) from None
        alike.setdefault(repr(_shared(point.recipe)), []).append(point)
    if len(points) > 1 and len(alike) == len(points):
        first, second = (_shared(point.recipe) for point in points[:2])
        differing = sorted(key for key in first | second if first.get(key) != second.get(key))
        problem = f"no two runs go together, as they differ in {', '.join(differing)}"
        raise RecipeError("command line", f"--stack {most}: {problem}; allowed: {', '.join(PER_RUN)}")
    waiting = [[point for point in group if not point.is_finished] for group in alike.values()]
    parts = [part for group in waiting for part in _even_parts(group, most)]
    folder = points[0].folder.parent
    return [StackOfRuns(f"stack-{number}", part, folder) for number, part in enumerate(parts, 1) if len(part) > 1]


def _even_parts(points: Sequence[Point], most: int) -> list[list[Point]]:
    """As few parts as there can be, of at most so many points, which differ by one in size at most."""
    count = -(-len(points) // most)
    return [list(points[number::count]) for number in range(count)]


def layout(stacks: Sequence[StackOfRuns]) -> str:
    """Say which stacks there are."""
    sizes = ", ".join(str(len(stack.points)) for stack in stacks)
    count = f"{len(stacks)} stack{'s' * (len(stacks) > 1)}"
    return f"--stack: {count}, of {sizes} runs" if stacks else "--stack: no runs are left to stack"


def _shared(recipe: Recipe) -> dict[str, Any]:
    """What the runs of a stack have in common."""
    return {key: value for key, value in flat(recipe.resolved()).items() if key not in PER_RUN}


def run_stacked(points: Sequence[Point], jobs: int, stacks: Sequence[StackOfRuns]) -> int:
    """Trains what is unfinished in stacks, then lets each run measure and report what it has become.

    Runs whose training failed are not begun again by themselves. Returns the exit status, as `run_all`.

    Raises:
        RecipeError: at a mistake in a stage, before anything is trained.
    """
    statuses = run_stages(points, jobs)
    if SAVED in statuses:
        return SAVED
    for stack in stacks:
        stack.points = [point for point in stack.points if not stages.lacking(point.recipe)]
    stacks = [stack for stack in stacks if stack.points]
    words = {stack.name: stack.write() for stack in stacks}
    failed = list[Point]()
    with closing(side_by_side(stacks, jobs, lambda stack: ["pipeline.training", str(words[stack.name])])) as ended:
        for stack in ended:
            assert stack.process is not None
            statuses.add(stack.process.returncode)
            failed += _failed(stack, outcome_of(words[stack.name]))
    if SAVED in statuses:
        return in_all(statuses)
    # What comes after training is done by processors for the most part, also where there is a GPU.
    after = max(jobs, cores() // 2) if gpu_names() else jobs
    statuses.add(run_points([point for point in points if point not in failed], after))
    return in_all(statuses)


def _failed(stack: StackOfRuns, outcome: Path) -> list[Point]:
    """Says how a stack ended, in a line, and each of its runs that was not trained to its end, which are returned."""
    endings: dict[str, str] = json.loads(outcome.read_text(encoding="utf-8")) if outcome.is_file() else {}
    if not endings:
        for line in f"{stack.name}: {failure(stack)}".splitlines():
            log.info(line)
        return stack.points
    failed = [point for point in stack.points if endings[point.name]]
    took = duration(time.monotonic() - stack.started)
    log.info(
        f"{stack.name}: {len(stack.points) - len(failed)} of {len(stack.points)} runs trained to their end, {took}"
    )
    for point in failed:
        log.info(f"{point.name}: {endings[point.name]}")
        log.info(f"  its log is {point.log}")
    return failed
