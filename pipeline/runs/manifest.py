"""`manifest.json` and its journal: which weights are which.

A folder counts only once it is listed here with the hashes of its files. The list has two parts: `manifest.json` as it
was when the run was last started or finished, and `manifest.N.journal`, one line for each change since, so that listing
a step costs the same however many there are. The journal of number N and those after it belong to the manifest that
says `generation: N`; older ones are what a crash has left.

Kept steps form a chain: each `link` is a hash of its entry and of the link before it, so that a step of another run, or
of an abandoned branch of this one, does not fit in.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.runs.entry import FOLDERS, Entry, read_entry
from pipeline.utils.errors import RecipeError
from pipeline.utils.files import append, lines_backwards, write_json, writing
from pipeline.utils.inside import MEGABYTE, append_to, exists, open_file, read_bytes, remove_file

MANIFEST = "manifest.json"
VERSION = 1  # of its format; older manifests say none
MOST = 64 * MEGABYTE  # bytes of it, or of a journal: some 20,000 kept steps
REBUILD = "python -m pipeline.runs rebuild-manifest"
_LOCK = threading.Lock()  # a thread that writes kept steps and the training thread both add lines


class ManifestError(RecipeError, ValueError):
    """What is wrong with the list of a run folder."""


class NewerManifestError(ManifestError):
    """The list of a run folder is of a format that this version does not know."""


@dataclass
class Manifest:
    """The kept steps, those whose weights were deleted on request, the resumable checkpoints, and the outcome.

    `going` are folders of ours, by path, that are listed no longer and are about to be deleted.
    """

    kept: dict[int, Entry] = field(default_factory=dict)
    resumable: dict[int, Entry] = field(default_factory=dict)
    pruned: dict[int, Entry] = field(default_factory=dict)
    going: dict[str, Entry] = field(default_factory=dict)
    finished: dict[str, Any] | None = None
    generation: int = 0

    @classmethod
    def load(cls, run: Path) -> Manifest:
        """Return the manifest of a run folder; empty where there is none yet.

        Raises:
            ManifestError: when the file is not a manifest, is a newer version's, or names a place other than its own.
        """
        path = run / MANIFEST
        try:
            facts = json.loads(read_bytes(run, MANIFEST, MOST))
            cls._check_version(path, facts)
            manifest = cls(finished=facts.get("finished"), generation=facts.get("generation", 0))
            _check_outcome(manifest.finished, manifest.generation)
            for tier in FOLDERS:
                entries = facts.get(tier, {}) if tier == "pruned" else facts[tier]
                found = {int(step): read_entry(tier, int(step), entry) for step, entry in entries.items()}
                setattr(manifest, tier, found)
            for place, entry in facts.get("going", {}).items():
                manifest.going[place] = read_entry("going", place, entry)
            for number, journal in journals(run):
                if number >= manifest.generation:
                    path = journal
                    manifest._replay(read_bytes(run, journal.name, MOST))
            return manifest
        except FileNotFoundError:
            if path == run / MANIFEST:
                return cls()
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            if isinstance(error, RecipeError):
                raise
            raise ManifestError(
                str(run), f"{path.name} is damaged; {REBUILD} {run} makes a new one from what verifies"
            ) from None

    @classmethod
    def _check_version(cls, path: Path, facts: dict[str, Any]) -> None:
        known = {"version", *(entry.name for entry in dataclasses.fields(cls))}
        version, unknown = facts.get("version", 1), sorted(facts.keys() - known)
        if version != VERSION or unknown:
            has = f"has the field {unknown[0]!r}" if version == VERSION else f"is of version {version!r}"
            raise NewerManifestError(
                str(path), f"{has}, so a newer groklab wrote it; this one reads version {VERSION}: update it to go on"
            )

    def _replay(self, content: bytes) -> None:
        whole, _, _ = content.rpartition(b"\n")  # what follows was cut off by a crash
        for line in whole.splitlines():
            change = json.loads(line)
            tier: dict[int, Entry] = {"kept": self.kept, "resumable": self.resumable}[change["tier"]]
            step = int(change["step"])
            if change["entry"] is not None:
                tier[step] = read_entry(change["tier"], step, change["entry"])
                self.going.pop(tier[step].path, None)
            elif step in tier:
                self.drop(change["tier"], step)

    def drop(self, tier: str, step: int) -> None:
        """Takes a step off a list, to those that are about to be deleted."""
        entry: Entry = getattr(self, tier).pop(step)
        self.going[entry.path] = entry

    def save(self, run: Path) -> None:
        """Writes all of it, and begins a new journal."""
        with _LOCK:
            old = journals(run)
            self.generation = max([self.generation, *(number for number, _ in old)]) + 1
            # Before the manifest, so that a line goes to it at any instant; the journals before it count until then.
            self.going = {path: entry for path, entry in self.going.items() if exists(run, path)}
            with writing(run / MANIFEST):
                os.close(open_file(run, _journal(run, self.generation).name, os.O_WRONLY | os.O_CREAT))
                write_json(run / MANIFEST, {"version": VERSION, **dataclasses.asdict(self)})
            # A finished run has nothing to add; one that goes on after all begins by writing its manifest.
            for _, journal in [*old, *([(0, _journal(run, self.generation))] if self.finished else [])]:
                remove_file(run, journal.name)

    def chain(self) -> dict[int, Entry]:
        """Kept and pruned steps, in order."""
        steps = {**self.kept, **self.pruned}
        return {step: steps[step] for step in sorted(steps)}

    def parent_of(self, step: int) -> str:
        """Return the link of the last step that was kept before this one; empty where there is none."""
        return next((entry.link for number, entry in reversed(self.chain().items()) if number < step), "")

    def breaks(self) -> dict[str, str]:
        """Return what does not descend from the run's first kept step: path -> why."""
        found, parent, before = {}, "", "the first kept step"
        links = {""}
        for step, entry in self.chain().items():
            if entry.link != entry.expected_link():
                found[entry.path] = "its entry in the manifest was changed"
            elif entry.parent != parent:
                found[entry.path] = f"does not descend from {before} of this run"
            parent, before = entry.link, f"step {step}"
            links.add(entry.link)
        for entry in self.resumable.values():
            if entry.link != entry.expected_link():
                found[entry.path] = "its entry in the manifest was changed"
            elif entry.parent not in links:
                found[entry.path] = "does not descend from a kept step of this run"
        return found


def add(run: Path, tier: str, step: int, entry: Entry) -> None:
    """Lists an entry: one write, at the end of a file, that is on the disk then or was not made."""
    if not exists(run, MANIFEST) or not journals(run):
        Manifest.load(run).save(run)
    with _LOCK, writing(run / MANIFEST):
        tip, at = _tip(run)
        if tier == "kept":
            # A step that is written again follows the one before it, not itself.
            entry = entry.after(tip if step > at else Manifest.load(run).parent_of(step))
            tip, at = entry.link, step
        else:
            entry = entry.after(tip)
        _append(run, [(tier, step, dataclasses.asdict(entry))], tip, at)


def strike_off(run: Path, steps: Iterable[int]) -> None:
    """Takes checkpoints off the list, which is then on the disk without them."""
    with _LOCK, writing(run / MANIFEST):
        tip, at = _tip(run)
        _append(run, [("resumable", step, None) for step in steps], tip, at)


def _append(run: Path, changes: list[tuple[str, int, Any]], tip: str, at: int) -> None:
    lines = [
        json.dumps({"tier": tier, "step": number, "tip": tip, "at": at, "entry": facts})
        for tier, number, facts in changes
    ]
    with append_to(run, journals(run)[-1][1].name) as file:
        append(file, "".join(f"{line}\n" for line in lines).encode(), sync=True)


def listed_checkpoints(run: Path, steps: set[int]) -> dict[int, Entry]:
    """Return those of these checkpoints that are listed, for which the end of the journal is mostly enough."""
    found: dict[int, Entry | None] = {}
    with open(open_file(run, journals(run)[-1][1].name), "rb") as file:
        for _, line in lines_backwards(file):
            if b'"tier": "resumable"' in line:
                change = json.loads(line)
                facts = change["entry"]
                found.setdefault(change["step"], facts and read_entry("resumable", change["step"], facts))
            if steps <= found.keys():
                return {step: entry for step, entry in found.items() if step in steps and entry}
    return {step: entry for step, entry in Manifest.load(run).resumable.items() if step in steps}


def _tip(run: Path) -> tuple[str, int]:
    """Link and number of the newest kept step (-1: none), for which the journal's last line is enough."""
    with open(open_file(run, journals(run)[-1][1].name), "rb") as file:
        for _, line in lines_backwards(file):
            facts = json.loads(line)
            return facts["tip"], facts["at"]
    chain = Manifest.load(run).chain()
    return (chain[max(chain)].link, max(chain)) if chain else ("", -1)


def journals(run: Path) -> list[tuple[int, Path]]:
    """Return the journals of a run folder with their numbers, the oldest first."""
    found = [(path.name.split(".")[1], path) for path in run.glob("manifest.*.journal")]
    return sorted((int(number), path) for number, path in found if number.isdigit())


def _journal(run: Path, number: int) -> Path:
    return run / f"manifest.{number}.journal"


def _check_outcome(finished: Any, generation: Any) -> None:
    if type(generation) is not int or not isinstance(finished, (dict, type(None))):
        raise ValueError("outcome")
    if finished is not None:
        numbers = [finished["step"], finished.get("streak") or 0, finished.get("num_train_epochs") or 0]
        if not all(type(number) in (int, float) for number in numbers) or not isinstance(finished["stopped"], bool):
            raise ValueError("outcome")
