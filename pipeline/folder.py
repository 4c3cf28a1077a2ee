"""A run's folder: whose it is, what it says of the run, and going back to where training can resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from pipeline import checkpoints
from pipeline.checkpoints import Manifest
from pipeline.environment import describe_environment
from pipeline.files import new_folder, write_json, write_text
from pipeline.history import rewind_history
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
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
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


def go_back(folder: Path) -> tuple[str | None, list[dict[str, Any]]]:
    """The newest whole checkpoint (None: start anew) and the metrics up to it, once what came later is forgotten."""
    manifest = Manifest.load(folder)
    step, passed_over = checkpoints.newest_good(folder, manifest)
    for line in passed_over:
        print(line)
    checkpoints.rewind(folder, manifest, step)
    return (None if step is None else str(folder / f"checkpoint-{step}")), rewind_history(folder, step)
