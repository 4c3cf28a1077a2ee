"""A run's folder: whose it is, what it says of the run, and going back to where training can resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml

from pipeline import checkpoints, seeds
from pipeline.environment import describe_environment
from pipeline.files import new_folder, write_json, write_text
from pipeline.history import rewind_history
from pipeline.lock import LOCK
from pipeline.manifest import Manifest
from pipeline.parameters import ParameterError
from pipeline.reading import RecipeError
from pipeline.recipe import Recipe
from pipeline.store import INDEX, StoredCorpus, write_parquet

RECIPE, ENVIRONMENT, CORPUS, TOKENIZER = "recipe.yaml", "environment.json", "corpus", "tokenizer"


def open_run(recipe: Recipe) -> Manifest:
    """The manifest of the recipe's run folder; empty for a new run. Writes nothing.

    Raises:
        RecipeError: when the folder holds something else, or a run of another recipe; then with the differing keys.
    """
    folder = recipe.output_dir
    # A start that was killed before it had a recipe leaves a lock and drafts.
    if not folder.exists() or (folder.is_dir() and all(_is_scrap(path) for path in folder.iterdir())):
        return Manifest()
    if not (folder / RECIPE).is_file():
        raise RecipeError("output_dir", f"{folder} exists and is not a run folder; choose another with --output_dir")
    differences = recipe.differences(yaml.safe_load((folder / RECIPE).read_text()))
    if differences:
        raise RecipeError(
            "output_dir",
            f"{folder} holds a run of another recipe ({'; '.join(differences)}); choose another with --output_dir",
        )
    try:
        return Manifest.load(folder)
    except ValueError as error:
        raise RecipeError("output_dir", str(error)) from None


def is_finished(recipe: Recipe, manifest: Manifest) -> bool:
    """Whether nothing is left to do: the run was reported, and the recipe asks for no more steps than it has."""
    if not manifest.finished:
        return False
    stopped = manifest.finished["stopped"] and recipe.options.stop_when == "grokked"
    return stopped or manifest.finished["step"] >= recipe.training.get("max_steps", 0)


def check_streams(folder: Path, manifest: Manifest) -> None:
    """Whether training that goes on from a checkpoint draws its rows as it did until then.

    Raises:
        RecipeError: when an earlier version of this package drew them otherwise.
    """
    if not manifest.resumable or not (folder / ENVIRONMENT).is_file():
        return
    if json.loads((folder / ENVIRONMENT).read_text())[-1].get("random_streams", 1) != seeds.VERSION:
        raise RecipeError(
            "output_dir",
            f"{folder} was trained by another version of this package, which takes the rows in another order, so that "
            "training cannot go on there; choose another with --output_dir",
        )


def write_description(recipe: Recipe, stored: StoredCorpus) -> None:
    """recipe.yaml, corpus/ and environment.json; the last gains an entry each time a run is started."""
    folder = recipe.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RECIPE, recipe.to_yaml())
    if not (folder / CORPUS / INDEX).exists():
        with new_folder(folder / CORPUS) as draft:
            write_parquet(stored, draft)
    starts = json.loads((folder / ENVIRONMENT).read_text()) if (folder / ENVIRONMENT).exists() else []
    write_json(folder / ENVIRONMENT, [*starts, describe_environment()])


def check_corpus(run: Path, stored: StoredCorpus) -> None:
    """Refuses a corpus that is not the one a run folder was begun with: files that it is read from may be replaced.

    Raises:
        ParameterError: with both content hashes.
    """
    index = run / CORPUS / INDEX
    if not index.exists():  # a new run
        return
    try:
        begun = str(json.loads(index.read_text())["content_hash"])
    except (OSError, ValueError, TypeError, KeyError):
        raise ParameterError("corpus", f"{index} is damaged; delete {index.parent} to have it written again") from None
    if begun != stored.content_hash:
        raise ParameterError(
            "corpus",
            f"{run} was begun with content hash {begun[:16]}, and what is there now has {stored.content_hash[:16]}; "
            "put the corpus back as it was, or choose another --output_dir",
        )


def _is_scrap(path: Path) -> bool:
    return path.name == LOCK or (path.name.startswith(".") and ".draft" in path.name)


def go_back(folder: Path) -> str | None:
    """The newest whole checkpoint (None: start anew), once what came later, and what a crash has left, is gone."""
    manifest = Manifest.load(folder)
    step, passed_over = checkpoints.newest_good(folder, manifest)
    for line in passed_over:
        print(line)
    checkpoints.rewind(folder, manifest, step)
    rewind_history(folder, step)
    for path in [*folder.glob(".*.draft*"), *folder.glob("circuits/*/.*.draft")]:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
    return None if step is None else str(folder / f"checkpoint-{step}")
