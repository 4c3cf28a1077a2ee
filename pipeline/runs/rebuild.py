"""Listing a run's folders anew, where its manifest is missing or damaged."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.runs.checkpoints import facts_of, files_of, numbered
from pipeline.runs.entry import Entry, read_entry
from pipeline.runs.folder import RunFolder
from pipeline.runs.lock import RunLock
from pipeline.runs.manifest import MANIFEST, MOST, Manifest, ManifestError, NewerManifestError, journals
from pipeline.runs.metrics import METRICS, read_series
from pipeline.utils.drafts import set_aside
from pipeline.utils.errors import RecipeError
from pipeline.utils.inside import MEGABYTE, exists, open_file, read_bytes, read_json

STATE = "trainer_state.json"


def rebuild(run: Path) -> Iterator[str]:
    """Writes the manifest of a run from what verifies; yields a line for what does not, and for what is listed.

    A step whose hash a journal still tells is compared with it. Of another one only this can be said: that its files
    are whole as safetensors, JSON and torch's archives, and are those of its step.

    Raises:
        RecipeError: when there is nothing to list, or the manifest is whole, or of a newer version.
    """
    steps, checkpoints = numbered(run, "steps", "step"), numbered(run, "", "checkpoint-")
    if not steps and not checkpoints:
        raise RecipeError(str(run), "has neither kept steps nor checkpoints, so there is nothing to list")
    with RunLock(run):
        try:
            Manifest.load(run)
            if exists(run, MANIFEST):
                raise RecipeError(str(run / MANIFEST), "is whole, so there is nothing to rebuild")
        except NewerManifestError:
            raise
        except ManifestError:
            pass
        known, manifest = dict(_recorded(run)), Manifest()
        metrics = _metrics(run)
        for tier, folders in {"kept": steps, "resumable": checkpoints}.items():
            for step, folder in folders.items():
                path = str(folder.relative_to(run))
                entry, problem = known.get(path), None
                if entry is None or entry.damage(run):
                    problem = _problem(run, path, step if tier == "resumable" else None)
                    facts = {} if problem else facts_of(folder, files_of(folder))
                    entry = Entry(path, facts, metrics.get(step, {}) if tier == "kept" else {})
                if problem:
                    yield f"{path}: {problem}; it is not listed"
                else:
                    getattr(manifest, tier)[step] = entry.after(manifest.parent_of(step + (tier == "resumable")))
        if not manifest.kept and not manifest.resumable:
            raise RecipeError(str(run), "nothing in it verifies, so nothing was changed")
        for name in [MANIFEST, *(journal.name for _, journal in journals(run))]:
            if exists(run, name):
                set_aside(run, name, "is damaged or belongs to one that is")
        _mark_finished(run, manifest)
        manifest.save(run)
    yield f"{run / MANIFEST} lists {len(manifest.kept)} steps and {len(manifest.resumable)} checkpoints"


def _recorded(run: Path) -> Iterator[tuple[str, Entry]]:
    """Yield the entries that the journals tell, the later ones of a folder last."""
    for _, journal in journals(run):
        for line in read_bytes(run, journal.name, MOST).splitlines():
            try:
                change = json.loads(line)
                if change["entry"] is not None:
                    entry = read_entry(change["tier"], change["step"], change["entry"])
                    yield entry.path, entry
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue


def _metrics(run: Path) -> dict[int, dict[str, float]]:
    """Return what was measured at every step, as a kept step's entry has it."""
    found: dict[int, dict[str, float]] = {}
    for key, (steps, values) in read_series(run).items():
        if key.startswith("eval_") and key != "eval_seconds":
            for step, value in zip(steps, values):
                if math.isfinite(value):
                    found.setdefault(step, {})[key] = value
    return found


def _problem(run: Path, path: str, step: int | None) -> str | None:
    """Return why a folder cannot be listed, or None; `step` is that of a checkpoint."""
    names = files_of(run / path)
    if not any(name.endswith((".safetensors", "_states.pt")) for name in names):
        return "it holds no weights"
    for name in names:
        try:
            damage = damage_of(run, f"{path}/{name}")
        except RecipeError as error:
            damage = error.message
        if damage:
            return f"{name} {damage}"
    if step is not None:
        state: Any = read_json(run, f"{path}/{STATE}", 256 * MEGABYTE) if STATE in names else {}
        if not isinstance(state, dict) or state.get("global_step") != step:
            return f"{STATE} is not that of step {step}"
        if not any(name.endswith((".pt", ".pth")) for name in names):
            return "it holds no state of an optimizer"
    return None


def damage_of(run: Path, name: str) -> str | None:
    """Return what is wrong with a file, as far as its format tells."""
    with open(open_file(run, name), "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        if name.endswith(".safetensors"):
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(size - 8, 100 * MEGABYTE):
                return "is cut off"
            try:
                tensors = json.loads(file.read(length))
                ends = [tensor["data_offsets"][1] for key, tensor in tensors.items() if key != "__metadata__"]
                return None if size == 8 + length + max(ends, default=0) else "is cut off"
            except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
                return "is damaged"
        if name.endswith((".pt", ".pth")):
            try:
                with zipfile.ZipFile(file) as archive:
                    if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                        return "is damaged"  # torch compresses nothing
                    return "is corrupted" if archive.testzip() else None
            # Of changed bytes: names that are no text, places and sizes beyond the file, flags of encryption and of
            # later versions of the format (RuntimeError).
            except (zipfile.BadZipFile, OSError, ValueError, OverflowError, EOFError, RuntimeError):
                return "is damaged"
    if name.endswith(".json"):
        read_json(run, name, 256 * MEGABYTE)
    return None


def _mark_finished(run: Path, manifest: Manifest) -> None:
    """Takes over that a run was finished, where its metrics end with the measurement of all rows at a kept step."""
    if not exists(run, METRICS):
        return
    try:
        results = RunFolder.read(run)
    except RecipeError:
        return  # no report could be made of it either
    if results.finished and results.last_step in manifest.kept:
        stopped = results.last_step < results.total_steps
        manifest.finished = {"step": results.last_step, "stopped": stopped, **results.grok.summary()}
