"""Forks: a run that goes on from a step of another one, on the same step axis, under other keys."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pipeline.config.recipe import Recipe
from pipeline.config.yaml_writer import lists
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
        """Return what environment.json says of it."""
        return {"parent": str(self.parent), "step": self.step, "weights": self.entry.weights_hash,
                "optimizer": self.is_resumable}  # fmt: skip


def parts(text: str) -> tuple[str, str]:
    """Return the parent and the step of `RUN@STEP`."""
    parent, sign, step = text.rpartition("@")
    if not (parent and sign and step):
        raise ParameterError(KEY, f"{text!r} is not RUN@STEP, such as runs/quickstart@900")
    return parent, step


def find(text: str, resumes: bool = True) -> Fork:
    """Return the fork that `RUN@STEP` names.

    Args:
        text: The parent and the step.
        resumes: Whether a whole checkpoint with its optimizer comes before a kept step.

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
    resumable = manifest.resumable if resumes else {}
    number = int(step) if step.isdecimal() else None
    if number in resumable and not resumable[number].damage(parent):
        return Fork(parent, number, resumable[number], True)
    try:
        number, entry = choose_kept(parent, manifest, step, KEY)
    except ParameterError as error:
        going_on = ", ".join(map(str, sorted(resumable)))
        raise ParameterError(KEY, error.message + (f"; resumable are {going_on}" if going_on else "")) from None
    if number in resumable and not resumable[number].damage(parent):
        return Fork(parent, number, resumable[number], True)
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
        begun = _as_begun(recipe)
        if not begun or parts(begun)[0] != name or step.isdecimal():
            begun = text if begun == text else f"{name}@{beginning(recipe).step}"
    except ParameterError as error:
        raise recipe.located(error) from None
    return dataclasses.replace(recipe, options=dataclasses.replace(recipe.options, fork=begun))


def _as_begun(recipe: Recipe) -> str | None:
    """The fork that the recipe's run folder names, where the run there has a checkpoint of its own, or is finished."""
    run = recipe.output_dir
    if not exists(run, RECIPE):
        return None
    manifest = Manifest.load(run)
    found = read_resolved(run).get(KEY)
    return str(found) if found and (manifest.resumable or manifest.finished) else None


def beginning(recipe: Recipe) -> Fork:
    """Return the fork with which a recipe begins.

    Raises:
        ParameterError: when it cannot begin there, or its adapters are not those of its parent.
    """
    assert recipe.options.fork is not None
    ours = _adapters(lists(recipe.resolved()))
    fork = find(recipe.options.fork)
    parent, last = fork.parent, recipe.training.get("max_steps", -1)
    if 0 < last <= fork.step:
        raise ParameterError("max_steps", f"{last:,} is not beyond step {fork.step:,}, where the fork begins")
    if parent.resolve() == recipe.output_dir.resolve():
        raise ParameterError("output_dir", f"{recipe.output_dir} is the parent of the fork; choose another")
    theirs = _adapters(read_resolved(parent))
    if theirs and not ours:
        return find(recipe.options.fork, resumes=False)  # its adapters are merged there
    if ours and not theirs:
        raise ParameterError(
            "peft", f"{parent} has no adapters to go on with; for new ones on its weights, write model: "
            f"{{model_name_or_path: {parent}, revision: step{fork.step}}} in place of --fork"
        )  # fmt: skip
    for key in ours:
        if ours[key] != theirs.get(key):
            raise ParameterError(key, f"{ours[key]} here, {theirs.get(key)} there; a fork has its parent's adapters")
    if ours and not fork.is_resumable:
        raise ParameterError(KEY, f"step {fork.step} has its adapters merged; fork at a resumable checkpoint")
    return fork


def _adapters(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights of adapters mean, in a resolved recipe, by dotted keys; empty where all weights are trained."""
    peft, model = resolved.get("peft") or {}, resolved.get("model") or {}
    if peft.get("method", "full") == "full":
        return {}
    found = {f"peft.{key}": peft.get(key) for key in ("method", "r", "alpha", "targets")}
    return found | {f"model.{key}": model.get(key) for key in ("model_name_or_path", "revision", "weights")}


def compare_corpus(fork: Fork, stored: StoredCorpus) -> list[str]:
    """Return where the corpora of a fork and its parent differ, as `key: theirs there, ours here`."""
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
