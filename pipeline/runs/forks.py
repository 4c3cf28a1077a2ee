"""Forks: a run that goes on from a step of another one, on the same step axis, under other keys."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pipeline.config.recipe import Recipe
from pipeline.corpora.store import INDEX, StoredCorpus
from pipeline.runs.entry import Entry
from pipeline.runs.folder import read_resolved
from pipeline.runs.layout import CORPUS, RECIPE
from pipeline.runs.manifest import Manifest
from pipeline.runs.metrics import METRICS, read_lines
from pipeline.runs.stages import choose_kept
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.files import write_text
from pipeline.utils.inside import exists, read_json
from pipeline.utils.paths import expanded

KEY = "fork"


class Fork(NamedTuple):
    """The step of a parent run at which a fork begins; resumable where its optimizer was saved there."""

    parent: Path
    step: int
    entry: Entry
    is_resumable: bool

    def facts(self) -> dict[str, Any]:
        """What environment.json says of it."""
        return {"parent": str(self.parent), "step": self.step, "weights": self.entry.weights_hash,
                "optimizer": self.is_resumable}  # fmt: skip


def parts(text: str) -> tuple[str, str]:
    """The parent and the step of `RUN@STEP`."""
    parent, sign, step = text.rpartition("@")
    if not (parent and sign and step):
        raise ParameterError(KEY, f"{text!r} is not RUN@STEP, such as runs/quickstart@900")
    return parent, step


def find(text: str) -> Fork:
    """The fork that `RUN@STEP` names.

    Raises:
        ParameterError: when there is no such run, or no such step in it; with those that are there.
    """
    name, step = parts(text)
    parent = expanded(name, KEY)
    if not (parent / RECIPE).is_file():
        raise ParameterError(KEY, f"{parent} is not the folder of a run")
    try:
        manifest = Manifest.load(parent)
    except RecipeError as error:
        raise ParameterError(KEY, str(error)) from None
    number = int(step) if step.isdecimal() else None
    if number in manifest.resumable and not manifest.resumable[number].damage(parent):
        return Fork(parent, number, manifest.resumable[number], True)
    try:
        number, entry = choose_kept(parent, manifest, step, KEY)
    except ParameterError as error:
        going_on = ", ".join(map(str, sorted(manifest.resumable)))
        raise ParameterError(KEY, error.message + (f"; resumable are {going_on}" if going_on else "")) from None
    if number in manifest.resumable and not manifest.resumable[number].damage(parent):
        return Fork(parent, number, manifest.resumable[number], True)
    if damage := entry.damage(parent):
        raise ParameterError(KEY, f"{parent / entry.path}: {damage}")
    return Fork(parent, number, entry, False)


def pinned(recipe: Recipe) -> Recipe:
    """Return a recipe whose fork names a step by its number, checked; a fork that has gone on needs no parent.

    Raises:
        RecipeError: when it cannot begin there.
    """
    text = recipe.options.fork
    if text is None:
        return recipe
    try:
        name, step = parts(text)
        if step.isdecimal() and _has_gone_on(recipe):
            return recipe
        fork = find(text)
        last = recipe.training.get("max_steps", -1)
        if 0 < last <= fork.step:
            raise ParameterError("max_steps", f"{last:,} is not beyond step {fork.step:,}, where the fork begins")
        if fork.parent.resolve() == recipe.output_dir.resolve():
            raise ParameterError("output_dir", f"{recipe.output_dir} is the parent of the fork; choose another")
        if recipe.peft and not fork.is_resumable:
            raise ParameterError(KEY, f"step {fork.step} has its adapters merged; fork at a resumable checkpoint")
    except ParameterError as error:
        raise recipe.located(error) from None
    options = dataclasses.replace(recipe.options, fork=f"{name}@{fork.step}")
    return dataclasses.replace(recipe, options=options)


def _has_gone_on(recipe: Recipe) -> bool:
    return exists(recipe.output_dir, RECIPE) and bool(Manifest.load(recipe.output_dir).resumable)


def compare_corpus(fork: Fork, stored: StoredCorpus) -> list[str]:
    """Where the corpora of a fork and its parent differ, as `key: theirs there, ours here`."""
    if str(read_json(fork.parent, f"{CORPUS}/{INDEX}").get("content_hash")) == stored.content_hash:
        return []
    theirs, ours = read_resolved(fork.parent).get("corpus") or {}, stored.corpus.as_dict()
    found = [f"corpus.{key}: {theirs.get(key)} there, {ours[key]} here" for key in ours if theirs.get(key) != ours[key]]
    return found or ["corpus: another content hash"]


def copy_history(fork: Fork, run: Path) -> None:
    """Writes what the parent had logged up to the fork into the fork's own metrics."""
    lines = [json.dumps(line) + "\n" for line in read_lines(fork.parent) if line["step"] <= fork.step]
    write_text(run / METRICS, "".join(lines))


@contextmanager
def checkpoint_of(fork: Fork, rows: int) -> Iterator[str]:
    """The folder of a checkpoint that the Trainer resumes from; of a kept step, one without an optimizer.

    `rows` is how many a device takes at a time.
    """
    place = fork.parent / fork.entry.path
    if fork.is_resumable:
        yield str(place)
        return
    from transformers import TrainerControl, TrainerState

    with TemporaryDirectory() as top:
        home = Path(top) / f"checkpoint-{fork.step}"
        home.mkdir()
        for name in fork.entry.files:
            if "/" not in name:
                (home / name).symlink_to((place / name).absolute())
        control: Any = TrainerControl()
        state = TrainerState(global_step=fork.step, train_batch_size=rows, stateful_callbacks=[control])
        state.save_to_json(str(home / "trainer_state.json"))
        yield str(home)
