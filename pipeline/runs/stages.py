"""Earlier stages of a recipe: `model: {recipe: FILE, step: grok}` goes on from a run that is trained first."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config.outside import check_outside, is_asked
from pipeline.config.recipe import Recipe, read_recipe
from pipeline.config.yaml_nodes import COMMAND_LINE, STAGE, split_stage
from pipeline.runs import opening
from pipeline.runs.entry import Entry
from pipeline.runs.folder import read_resolved
from pipeline.runs.grokking import known_gen_step
from pipeline.runs.layout import RECIPE
from pipeline.runs.manifest import Manifest
from pipeline.utils.children import end_children, environment_of_child
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.launcher import is_under_launcher, processes
from pipeline.utils.log import log
from pipeline.utils.paths import expanded
from pipeline.utils.signals import SAVED
from pipeline.utils.suggest import did_you_mean

KEY = "model.recipe"


def choose_kept(run: Path, manifest: Manifest, step: str | None, key: str) -> tuple[int, Entry]:
    """Return the kept step of a run that `grok`, `fit`, `last` (or None), `N` or `stepN` names.

    Raises:
        ParameterError: when there is none, with those that are there.
    """
    if not manifest.kept:
        raise ParameterError(key, f"{run} is a run that has kept no step yet")
    number: int | None = max(manifest.kept)
    if step in ("grok", "fit"):
        ended = manifest.finished or {}
        reached = known_gen_step(ended) if step == "grok" else ended.get("fit_step")
        if reached is None:
            what = "generalized" if step == "grok" else "fitted its training rows"
            raise ParameterError(key, f"{run} is a run that has not {what}, or is not finished")
        number = min((kept for kept in manifest.kept if kept >= reached), default=None)
    elif step not in (None, "last"):
        digits = str(step).removeprefix("step")
        number = int(digits) if digits.isascii() and digits.isdigit() else None
    if number is None or number not in manifest.kept:
        kept = ", ".join(f"step{kept}" for kept in sorted(manifest.kept))
        raise ParameterError(key, f"{run} has not kept {step}; kept are {kept}")
    return number, manifest.kept[number]


def is_open(recipe: Recipe) -> bool:
    """Return whether the recipe's base is a step of an earlier stage that is still to be found."""
    model: Any = recipe.model
    return bool(getattr(model, "recipe", None)) and not model.weights


def as_begun(recipe: Recipe) -> Recipe:
    """Return the recipe with the base from which its run folder says that it was begun; itself for a new run."""
    if not is_open(recipe) or not (recipe.output_dir / RECIPE).is_file():
        return recipe
    model = read_resolved(recipe.output_dir).get("model")
    base = {key: model.get(key) for key in ("model_name_or_path", "revision", "weights")} if model else {}
    if not all(isinstance(value, str) and value for value in base.values()) or not base:
        return recipe
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, **base))


def is_finished(recipe: Recipe) -> bool:
    """Return whether nothing is left to train of a recipe.

    Raises:
        RecipeError: when its folder holds something else.
    """
    begun = as_begun(recipe)
    manifest = opening.open_run(begun)
    return not is_open(begun) and opening.is_finished(begun, manifest)


def earlier(recipe: Recipe) -> list[Recipe]:
    """Return the recipes of the stages before this one, the nearest first, each checked as far as it can be.

    Raises:
        RecipeError: when one is missing or wrong, goes on from itself, or cannot keep the step that is asked for.
    """
    found, stage = [recipe], recipe
    while is_open(stage):
        path = _path(stage)
        known = [Path(other.source).resolve() for other in found]
        if path.resolve() in known:
            names = [Path(other.source).name for other in found[known.index(path.resolve()) :]]
            raise stage.located(ParameterError(KEY, f"goes round in a circle: {' -> '.join([*names, path.name])}"))
        with _seen_from(len(found)):
            before = read_recipe(path, split_stage(stage.words)[1])
            if before.output_dir in [other.output_dir for other in found]:
                raise RecipeError(str(path), f"output_dir: {before.output_dir} is that of the stage after it as well")
            if not is_finished(before):
                _check_unfinished(stage, before)
        found.append(before)
        stage = before
    return found[1:]


@contextmanager
def _seen_from(distance: int) -> Iterator[None]:
    """Names the keys of a stage as they are written on the command line of the run that is `distance` stages later."""
    try:
        yield
    except RecipeError as error:
        prefix = STAGE * distance
        if error.where == COMMAND_LINE:
            raise RecipeError(COMMAND_LINE, prefix + error.message) from None
        if error.where == "output_dir":
            raise RecipeError(prefix + error.where, error.message.replace("--output", f"--{prefix}output")) from None
        raise


def lacking(recipe: Recipe) -> Recipe | None:
    """Return the stage before a recipe that has to be trained first; None where it is finished, or the recipe is.

    Raises:
        RecipeError: at a mistake in any stage.
    """
    stages = earlier(recipe)
    return None if not stages or is_finished(stages[0]) or is_finished(recipe) else stages[0]


def rounds(recipes: Iterable[Recipe]) -> list[list[Recipe]]:
    """Return the earlier stages of recipes that are to be trained, each once; a round needs only those before it.

    Raises:
        RecipeError: at a mistake in any stage, or when two that differ have one folder.
    """
    found = list[dict[Path, Recipe]]()
    for recipe in recipes:
        chain, stage = list[Recipe](), lacking(recipe)
        while stage:
            chain.insert(0, stage)
            stage = lacking(stage)
        for number, stage in enumerate(chain):
            if number == len(found):
                found.append({})
            known = found[number].setdefault(stage.output_dir, stage)
            if differing := stage.differences(known.resolved()):
                raise recipe.located(
                    ParameterError(KEY, f"{stage.output_dir} would hold two stages ({differing[0]}); give each "
                                   f"a folder by --{STAGE}output_dir")
                )  # fmt: skip
    return [list(stages.values()) for stages in found]


def train_earlier(recipe: Recipe) -> int:
    """Trains the stage before this recipe where it is not finished, which trains those before it.

    Where another process trains it, this one waits for that.

    Returns:
        0 when it is finished, else the exit status of its run, which has said why.

    Raises:
        RecipeError: at a mistake in any stage, before one is trained; where several processes train, when one is not
            finished.
    """
    stage = lacking(recipe)
    if stage is None:
        return 0
    if not _starts_stages():
        by_hand = shlex.join(["python", "-m", "pipeline.run", stage.source, *stage.words])
        raise recipe.located(
            ParameterError(KEY, f"{stage.output_dir} is not finished, and a launcher trains one run alone; "
                           f"run first: {by_hand}")
        )  # fmt: skip
    log.info(f"{recipe.name}: {stage.source} is trained first, in {stage.output_dir}")
    command = [sys.executable, "-m", "pipeline.run", stage.source, *stage.words]
    process = subprocess.Popen(command, env=environment_of_child(waits=True))
    try:
        status = process.wait()
    except BaseException:
        end_children([process])
        raise
    if status and not is_finished(stage):  # an analysis that failed leaves a run that is finished
        if status != SAVED:
            log.warning(f"{recipe.name} was not begun: {stage.source} has failed")
        return status if status in (SAVED, 2) else 1
    return 0


def _starts_stages() -> bool:
    """Return whether this process can start another run: it trains alone, and no engine was set up for it."""
    return not is_under_launcher() or (processes().world == 1 and not any(map(is_asked, ("DEEPSPEED", "FSDP"))))


def on_step(recipe: Recipe) -> Recipe:
    """Return the recipe with the step of the earlier stage as its base, and the hash of its weights.

    Raises:
        RecipeError: when the stage has not reached that step.
    """
    if not is_open(recipe):
        return recipe
    stage: Recipe = earlier(recipe)[0]
    run = stage.output_dir
    if not is_finished(stage) and is_finished(recipe):
        return as_begun(recipe)
    try:
        number, entry = choose_kept(run, Manifest.load(run), recipe.model.step, "model.step")
    except ParameterError as error:
        raise recipe.located(error) from None
    base = dataclasses.replace(
        recipe.model,
        model_name_or_path=str(stage.training["output_dir"]),
        revision=f"step{number}",
        weights=entry.weights_hash,
    )
    return dataclasses.replace(recipe, model=base)


def _path(recipe: Recipe) -> Path:
    """Return the file of the stage before: beside the recipe, else by its path from here."""
    name = recipe.model.recipe
    home = Path(recipe.source).parent
    for path in (home / name, expanded(name, KEY)):
        if path.is_file():
            return path
    near = did_you_mean(name, sorted(path.name for path in home.glob("*.yaml")))
    raise recipe.located(ParameterError(KEY, f"{name} is no file beside {recipe.source}, nor a path{near}"))


def _check_unfinished(recipe: Recipe, stage: Recipe) -> None:
    """Check whether a stage that is still to be trained can be, and will keep a step that is given by its number."""
    if _starts_stages():
        try:
            check_outside(stage)
        except ParameterError as error:
            raise stage.located(error) from None
    if not recipe.model.step.isdecimal() or stage.training.get("max_steps", -1) < 1:
        return
    number, last = int(recipe.model.step), stage.training["max_steps"]
    if number > last or (number < last and not stage.checkpoints.keeps(number)):
        steps = f"; it ends at step {last:,}" if number > last else "; its checkpoints do not"
        raise recipe.located(ParameterError("model.step", f"{number:,} is no step that {stage.source} keeps{steps}"))
