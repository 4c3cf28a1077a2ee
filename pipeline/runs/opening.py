"""What training does with a run's folder: opens it, describes the run in it, and goes back to where it can resume."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.recipe import Recipe
from pipeline.config.registry import room_name
from pipeline.corpora.export import write_parquet
from pipeline.corpora.store import INDEX, StoredCorpus
from pipeline.runs import checkpoints
from pipeline.runs.checkpoints import UNIVERSAL, unlisted
from pipeline.runs.environment import changes, describe_environment
from pipeline.runs.folder import read_resolved, read_starts
from pipeline.runs.layout import CORPUS, ENVIRONMENT, RECIPE, TOKENIZER
from pipeline.runs.lock import LOCK, RunLock
from pipeline.runs.manifest import MANIFEST, REBUILD, Manifest
from pipeline.runs.metrics import rewind_history
from pipeline.utils import seeds
from pipeline.utils.drafts import DRAFT, clean, draft_folder, left_behind, new_folder
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.files import write_json, write_text
from pipeline.utils.inside import exists, opened, remove_file, remove_tree
from pipeline.utils.log import log
from pipeline.utils.paths import obstacle

TextsRead = dict[str, dict[str, str | None]]  # key of a recipe -> which text was read there
# Drafts of earlier versions, in which a start that was killed may have left nothing else.
OLD_DRAFTS = tuple(f".{name}.draft" for name in (RECIPE, ENVIRONMENT, MANIFEST))


def open_run(recipe: Recipe) -> Manifest:
    """Return the manifest of the recipe's run folder; empty for a new run. Writes nothing.

    Raises:
        RecipeError: when the folder holds something else, or a run of another recipe; then with the differing keys.
    """
    folder = recipe.output_dir
    # A start that was killed before it had a recipe leaves a lock and drafts.
    try:
        reason = None if folder.exists() else obstacle(folder)
    except OSError as error:
        reason = f"{folder} cannot be a folder: {error.strerror}"
    if reason:
        raise RecipeError("output_dir", f"{reason}; choose another with --output_dir")
    if not folder.exists() or (folder.is_dir() and all(_is_scrap(path) for path in folder.iterdir())):
        return Manifest()
    if not (folder / RECIPE).is_file():
        raise RecipeError("output_dir", f"{folder} exists and is not a run folder; choose another with --output_dir")
    theirs = read_resolved(folder)
    if isinstance(theirs.get("replay"), dict):
        theirs["replay"].setdefault("by", "rows")  # as it was before there was a choice
    differences = recipe.differences(theirs)
    if differences:
        raise RecipeError(
            "output_dir",
            f"{folder} holds a run of another recipe ({'; '.join(differences)}); choose another with --output_dir",
        )
    if not exists(folder, MANIFEST) and unlisted(folder, Manifest()):
        raise RecipeError(
            str(folder), f"its {MANIFEST} is missing, and its steps are there; {REBUILD} {folder} lists what verifies"
        )
    return Manifest.load(folder)


def is_finished(recipe: Recipe, manifest: Manifest) -> bool:
    """Return whether nothing is left to do: the run was reported, and the recipe asks for no more training than it had.

    How long it was to be stands in the manifest; of a run of earlier code, in its recipe.
    """
    done = manifest.finished
    if not done:
        return False
    before = read_resolved(recipe.output_dir)
    if done["stopped"] and recipe.options.stop_when == "grokked":
        return bool(recipe.options.stop_patience <= done.get("streak", before.get("stop_patience", 0)))
    if "max_steps" in recipe.training:
        return bool(done["step"] >= recipe.training["max_steps"])
    by_epochs = None if "max_steps" in before else before.get("num_train_epochs")
    return bool(recipe.training["num_train_epochs"] <= (done.get("num_train_epochs", by_epochs) or 0))


def check_streams(folder: Path, manifest: Manifest) -> None:
    """Check whether training that goes on from a checkpoint draws its rows as it did until then.

    Raises:
        RecipeError: when an earlier version of this package drew them otherwise.
    """
    starts = read_starts(folder)
    if manifest.resumable and starts and starts[-1].get("random_streams", 1) != seeds.VERSION:
        raise RecipeError(
            "output_dir",
            f"{folder} was trained by another version of this package, which takes the rows in another order, so that "
            "training cannot go on there; choose another with --output_dir",
        )


def write_description(recipe: Recipe, stored: StoredCorpus) -> None:
    """Writes recipe.yaml and corpus/."""
    folder = recipe.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RECIPE, recipe.to_yaml())
    if not exists(folder, f"{CORPUS}/{INDEX}"):
        with new_folder(folder, CORPUS) as draft:
            write_parquet(stored, draft)


def record_length(run: Path, total_steps: int) -> None:
    """Writes into environment.json how many updates the run has in all, as this start of it counts them."""
    starts = read_starts(run)
    write_json(run / ENVIRONMENT, [*starts[:-1], *({**start, "total_steps": total_steps} for start in starts[-1:])])


def record_start(run: Path, in_force: Mapping[str, Any], texts: TextsRead) -> list[str]:
    """Adds a start to environment.json; returns where it differs from the one before in what can change the bits."""
    starts, now = read_starts(run), {**describe_environment(in_force), "texts": texts}
    write_json(run / ENVIRONMENT, [*starts, now])
    return changes(starts[-1], now) if starts else []


def texts_of(recipe: Recipe) -> TextsRead:
    """Return which texts a run reads beside its corpus, by their keys in the recipe; no file is read twice.

    Raises:
        ParameterError: when one is not there.
    """
    found, known = TextsRead(), dict[Path, str]()
    if room_name(recipe.model) != "pretrained":  # others read none
        return found
    callbacks: Mapping[str, Any] = recipe.callbacks
    choices: dict[str, Any] = {"replay": lambda: recipe.replay}
    choices |= {f"callbacks.{name}": callback.texts for name, callback in callbacks.items()}
    for key, chosen in choices.items():
        try:
            if texts := chosen():
                found[key] = texts.identity(known)
        except ParameterError as error:
            raise error.inside(key) from None
    return found


def check_texts(run: Path, texts: TextsRead) -> None:
    """Refuses a text that was replaced since a start of the run read it; earlier code did not note which it was.

    Raises:
        ParameterError: with both hashes.
    """
    for start in read_starts(run) if run.is_dir() else []:
        for key, before in start.get("texts", {}).items():
            now, begun = texts.get(key), before.get("sha256")
            if now is None or not begun or any(before.get(part) != now[part] for part in now.keys() - {"sha256"}):
                continue  # it is another text by what the recipe says, or was not here
            if begun != now["sha256"]:
                has = f"has {now['sha256'][:16]} now" if now["sha256"] else "is not here any more"
                raise ParameterError(
                    f"{key}.source",
                    f"{run} was begun with a text of sha256 {begun[:16]}, and {now['source']} {has}; "
                    "put the text back as it was, or choose another --output_dir",
                )


def clean_finished(folder: Path) -> None:
    """Removes the lock and the drafts of a process that was killed after its last word; or it is still there.

    Raises:
        RecipeError: then.
    """
    if (folder / LOCK).exists() or any(left_behind(folder, is_owner=False)):
        with RunLock(folder):
            clean(folder, is_owner=True)


def write_tokenizer(folder: Path, tokenizer: Any) -> None:
    """tokenizer/ with the files of a tokenizer, each in the place of the one that is there."""
    with draft_folder(folder, TOKENIZER) as draft:
        tokenizer.save_pretrained(draft.path)
        draft.publish_files()


def _is_scrap(path: Path) -> bool:
    return path.name == LOCK or path.name in OLD_DRAFTS or DRAFT.fullmatch(path.name) is not None


def go_back(folder: Path) -> str | None:
    """Remove what came after the newest whole checkpoint, and return that one; None where the run starts anew.

    Raises:
        RecipeError: when the run is finished and has no whole checkpoint.
    """
    manifest = Manifest.load(folder)
    step, passed_over = checkpoints.newest_good(folder, manifest)
    for line in passed_over:
        log.info(line)
    if step is None and manifest.finished:
        raise RecipeError(
            str(folder), "is finished, and has no whole checkpoint to go on from; train anew with another --output_dir"
        )
    checkpoints.rewind(folder, manifest, step)
    rewind_history(folder, step)
    for name in OLD_DRAFTS:
        remove_file(folder, name)
    with opened(folder) as top:
        remove_tree(top, UNIVERSAL)
    return None if step is None else str(folder / f"checkpoint-{step}")
