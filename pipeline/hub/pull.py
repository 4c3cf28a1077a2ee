"""Fetching a run from the Hub into a folder that circuits and reports can read, whoever has pushed it.

What the repository says is checked before anything is written: names that lead out of the folder, sizes that are not
those of the files, and values of another type are one line each.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.corpora.store import INDEX
from pipeline.hub.contents import MAIN, WEIGHTS
from pipeline.hub.repository import HubError, Remote, RemoteFile, printable
from pipeline.runs.checkpoints import check_steps, choose_steps, remove
from pipeline.runs.entry import FOLDERS, Entry
from pipeline.runs.layout import CORPUS, ENVIRONMENT, RECIPE, TOKENIZER
from pipeline.runs.lock import LOCK, RunLock
from pipeline.runs.manifest import MANIFEST, VERSION, Manifest
from pipeline.runs.metrics import METRICS
from pipeline.utils.drafts import clean, draft_folder, new_folder, write_inside
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.files import sha256, writing
from pipeline.utils.format import size
from pipeline.utils.inside import opened

PULLED = ".pulled-from"  # marks a folder that may be pulled into again
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
MOST_BYTES = 1 << 26  # of a file that is read into memory
LARGEST = 1 << 50  # bytes of a file that anybody has
STEP = re.compile(r"step(0|[1-9][0-9]{0,14})")

Listings = Mapping[str, Mapping[str, RemoteFile]]


def pull(repo: str, path: Path, *, steps: str = "all") -> Iterator[str]:
    """Downloads a pushed run, whole or as far as it was pushed; yields a line for each step.

    Steps that lie there as their manifest says are not downloaded again.

    Raises:
        HubError: when the repository is no pushed run, what it says cannot be, or a file comes with another sha256.
        DiskError: when the disk refuses.
    """
    remote = Remote(repo)
    listings = {MAIN: remote.listing(MAIN) or {}}
    listings |= {name: remote.listing(name) or {} for name in remote.branches() if STEP.fullmatch(name)}
    manifest, source = _said(remote, listings)
    chosen = [step for step in kept_steps(manifest, steps) if _revision(step, manifest, listings) or steps != "all"]
    for step in chosen:
        _check_files(remote, step, manifest, listings)
    names = {RECIPE, METRICS, ENVIRONMENT, INDEX, *TOKENIZER_FILES} & listings[source].keys()
    try:
        _check_place(path)
        with writing(path), RunLock(path):
            yield from _fetch(remote, path, manifest, source, sorted(names), chosen, listings)
    except RecipeError as error:  # of the lock
        raise HubError(error.message.partition(";")[0]) from None


def _fetch(
    remote: Remote, path: Path, manifest: Manifest, source: str, names: list[str], chosen: list[int], listings: Listings
) -> Iterator[str]:
    write_inside(path, PULLED, f"{remote.name}\n".encode())
    missing = [step for step in chosen if manifest.kept[step].damage(path) is not None]
    need = sum(listings[source][name].size for name in names)
    need += sum(facts["bytes"] for step in missing for facts in manifest.kept[step].files.values())
    if need > (free := shutil.disk_usage(path).free):
        raise HubError(f"{remote.name}: {size(need)} are needed, and {path} has {size(free)} free")
    places = {INDEX: CORPUS, **dict.fromkeys(TOKENIZER_FILES, TOKENIZER)}
    clean(path, is_owner=True)
    with draft_folder(path, "pulled") as draft:
        for name in names:
            file = remote.download(source, name, draft.path)
            with opened(path, places.get(name, ""), make=True) as place:
                os.replace(file, name, dst_dir_fd=place)
        got = _here(path)
        got.finished = manifest.finished
        for step in chosen:
            entry = manifest.kept[step]
            if step not in missing:
                yield f"step{step}: here already"
            else:
                revision = _revision(step, manifest, listings)
                if step in got.kept:
                    remove(path, got.kept[step])  # what is damaged
                with new_folder(path, entry.path) as folder:
                    for name, facts in entry.files.items():
                        file = remote.download(revision, name, draft.path / str(step))
                        if sha256(file) != facts["sha256"]:
                            raise HubError(
                                f"{remote.name}, {revision}: {name} has another sha256 than the manifest says"
                            )
                        (folder / name).parent.mkdir(parents=True, exist_ok=True)
                        file.replace(folder / name)
                yield f"step{step}: {size(sum(facts['bytes'] for facts in entry.files.values()))}"
            got.kept[step] = entry
            # The others are known by their hashes and not here, like those that were pruned.
            got.pruned = {number: kept for number, kept in manifest.chain().items() if number not in got.kept}
            got.save(path)
    if left_out := sorted(manifest.kept.keys() - got.kept.keys()):
        yield f"not fetched: {', '.join(f'step{step}' for step in left_out)}"


def _said(remote: Remote, listings: Listings) -> tuple[Manifest, str]:
    """What a repository says of its run, and the revision that holds what is not of one step.

    That is `main`, or where a push has not come so far, the newest step, and each step says what it is.
    """
    if {MANIFEST, RECIPE} <= listings[MAIN].keys():
        return parse_manifest(f"{remote.name}, {MAIN}", read_small(remote, MAIN, MANIFEST, listings[MAIN])), MAIN
    whole = [name for name, files in listings.items() if {MANIFEST, RECIPE, WEIGHTS} <= files.keys()]
    found, parent = Manifest(), ""
    for name in sorted(whole, key=lambda name: int(name[4:])):
        facts = _json_object(f"{remote.name}, {name}", read_small(remote, name, MANIFEST, listings[name]))
        step = int(name[4:])
        told = {"path": FOLDERS["kept"].format(step), "files": facts.get("files"), "metrics": facts.get("metrics")}
        found.kept[step] = _checked_entry(f"{remote.name}, {name}", step, told).after(parent)
        parent = found.kept[step].link
    if not found.kept:
        raise HubError(f"{remote.name}: neither main nor a branch stepN has {MANIFEST} and {RECIPE}: no run was pushed")
    return found, f"step{max(found.kept)}"


def _revision(step: int, manifest: Manifest, listings: Listings) -> str:
    """The revision that holds a step; empty where there is none."""
    if MANIFEST in listings.get(f"step{step}", {}):
        return f"step{step}"
    return MAIN if step == max(manifest.kept) and manifest.finished and WEIGHTS in listings[MAIN] else ""


def _check_files(remote: Remote, step: int, manifest: Manifest, listings: Listings) -> None:
    """Refuses a step that is not there, or whose files are not those that the manifest tells of."""
    revision = _revision(step, manifest, listings)
    if not revision:
        there = [name for name, files in listings.items() if name != MAIN and MANIFEST in files]
        raise HubError(f"{remote.name}: step{step} was not pushed; there are {', '.join(there) or 'none'}")
    for name, facts in manifest.kept[step].files.items():
        file = listings[revision].get(name)
        if file is None:
            raise HubError(f"{remote.name}, {revision}: {printable(name)} is missing")
        if file.size != facts["bytes"]:
            what = f"has {file.size:,} bytes, and {facts['bytes']:,} by the manifest"
            raise HubError(f"{remote.name}, {revision}: {printable(name)} {what}")


def _check_place(path: Path) -> None:
    """Refuses a folder that was not pulled, or in which a link might lead out of it."""
    if path.exists() and not path.is_dir():
        raise HubError(f"{path} is not a folder; choose another --output")
    held = [entry.name for entry in path.iterdir() if entry.name != LOCK] if path.exists() else []
    if held and not (path / PULLED).is_file():
        raise HubError(f"{path} exists and was not pulled; choose another --output")
    for at, folders, files in os.walk(path):
        for name in [*folders, *files]:
            if (Path(at) / name).is_symlink():
                raise HubError(f"{Path(at) / name} is a link, which a pull does not follow; choose another --output")


def _here(path: Path) -> Manifest:
    """The manifest of a folder that was pulled into before."""
    try:
        return Manifest.load(path) if (path / MANIFEST).exists() else Manifest()
    except ValueError:
        return Manifest()


def kept_steps(manifest: Manifest, words: str) -> list[int]:
    """The kept steps that `all`, `last`, `log` or a list of numbers stands for.

    Raises:
        ParameterError: when it stands for none, or names a step that was not kept.
    """
    check_steps(words, "--steps")
    if not manifest.kept:
        raise ParameterError("--steps", "no step has been kept yet")
    return choose_steps(manifest, words)


def read_small(remote: Remote, revision: str, name: str, listing: Mapping[str, RemoteFile]) -> bytes:
    """The bytes of a file that is read into memory.

    Raises:
        HubError: when it is too large for that.
    """
    if listing[name].size > MOST_BYTES:
        raise HubError(f"{remote.name}, {revision}: {name} has {size(listing[name].size)}, so it is none of ours")
    return remote.content(revision, name)


def parse_manifest(where: str, content: bytes) -> Manifest:
    """The kept and pruned steps of a manifest that somebody else may have written, and its outcome.

    Raises:
        HubError: at the first thing in it that cannot be.
    """
    facts = _json_object(where, content)
    unknown = sorted(facts.keys() - {"version", *(field.name for field in dataclasses.fields(Manifest))})
    if unknown or facts.get("version", VERSION) != VERSION:
        what = printable(unknown[0]) if unknown else "another version"
        raise HubError(f"{where}: {MANIFEST} holds {what}, which this version does not know")
    tiers: dict[str, dict[int, Entry]] = {}
    for tier in ("kept", "pruned"):
        entries = facts.get(tier, {})
        if not isinstance(entries, dict):
            raise HubError(f"{where}: {MANIFEST} is damaged: {tier} is no block of steps")
        for step in entries:
            if not STEP.fullmatch(f"step{step}"):
                raise HubError(f"{where}: {MANIFEST} is damaged: {printable(repr(step))} is no step")
        tiers[tier] = {int(step): _checked_entry(where, int(step), entry) for step, entry in entries.items()}
    finished = facts.get("finished")
    if finished is not None and not (
        isinstance(finished, dict) and _is_count(finished.get("step")) and isinstance(finished.get("stopped"), bool)
    ):
        raise HubError(f"{where}: {MANIFEST} is damaged: finished has no step and no stopped")
    return Manifest(kept=tiers["kept"], pruned=tiers["pruned"], finished=finished)


def _json_object(where: str, content: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise HubError(f"{where}: {MANIFEST} is damaged: it is no JSON object")
    return facts


def _checked_entry(where: str, step: int, entry: Any) -> Entry:
    """An entry of a manifest, every part of which is what it should be."""
    problem = ""
    facts = entry if isinstance(entry, dict) else {}
    files, metrics = facts.get("files"), facts.get("metrics", {})
    if facts.keys() - {"path", "files", "metrics", "parent", "link"} or facts.get("path") != FOLDERS["kept"].format(
        step
    ):
        problem = "is no entry of a step"
    elif not isinstance(files, dict) or not files:
        problem = "has no files"
    elif not isinstance(metrics, dict) or not all(type(value) in (int, float) for value in metrics.values()):
        problem = "has metrics that are no numbers"
    elif not all(isinstance(facts.get(key, ""), str) for key in ("parent", "link")):
        problem = "has a link that is no text"
    else:
        for name, told in files.items():
            if not _is_portable(name):
                problem = f"holds a file that is called {printable(repr(name))}"
            elif not isinstance(told, dict) or not _is_count(told.get("bytes")) or told["bytes"] > LARGEST:
                problem = f"holds {printable(name)} with a size that cannot be"
            elif not re.fullmatch(r"[0-9a-f]{64}", str(told.get("sha256"))):
                problem = f"holds {printable(name)} without a sha256"
    if problem:
        raise HubError(f"{where}: {MANIFEST} is damaged: step {step} {problem}")
    return Entry(**facts)


def _is_portable(name: str) -> bool:
    """Whether the name of a file means one inside its folder, on every system."""
    parts = name.split("/")
    return (
        name.isprintable()
        and not re.search(r'[\\:*?"<>|]', name)
        and len(parts) <= 8
        and all(0 < len(part.encode()) <= 200 and not part.startswith(".") for part in parts)
    )


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0
