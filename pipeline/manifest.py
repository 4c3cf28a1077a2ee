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
import hashlib
import json
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.files import append, lines_backwards, sha256, write_json, writing

MANIFEST = "manifest.json"
FOLDERS = {"kept": "steps/step{}", "pruned": "steps/step{}", "resumable": "checkpoint-{}"}
_LOCK = threading.Lock()  # a thread that writes kept steps and the training thread both add lines


@dataclass(frozen=True)
class Entry:
    """A sealed folder: its files with sha256 and size in bytes, and what was measured at that step.

    `parent` is the link of the kept step before it, empty for the first; `link` hashes both.
    """

    path: str
    files: dict[str, dict[str, Any]]
    metrics: dict[str, float] = field(default_factory=dict)
    parent: str = ""
    link: str = ""

    def after(self, parent: str) -> Entry:
        """The same as the successor of the kept step with this link."""
        entry = dataclasses.replace(self, parent=parent)
        return dataclasses.replace(entry, link=entry.expected_link())

    def expected_link(self) -> str:
        content = json.dumps([self.parent, self.path, self.files, self.metrics], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def damage(self, run: Path) -> str | None:
        """What is wrong with the folder on disk, or None: files missing, of another size, or with other bytes."""
        home = run.resolve()
        for name, facts in self.files.items():
            file = run / self.path / name
            if not file.is_file():
                return f"{name} is missing"
            if not file.resolve().is_relative_to(home):
                return f"{name} leads out of the run folder"
            if file.stat().st_size != facts["bytes"]:
                return f"{name} has {file.stat().st_size} bytes, not {facts['bytes']}"
            if sha256(file) != facts["sha256"]:
                return f"{name} is corrupted: its sha256 is not the recorded one"
        return None


@dataclass
class Manifest:
    """The kept steps, those whose weights were deleted on request, the resumable checkpoints, and the outcome."""

    kept: dict[int, Entry] = field(default_factory=dict)
    resumable: dict[int, Entry] = field(default_factory=dict)
    pruned: dict[int, Entry] = field(default_factory=dict)
    finished: dict[str, Any] | None = None
    generation: int = 0

    @classmethod
    def load(cls, run: Path) -> Manifest:
        """The manifest of a run folder; empty where there is none yet.

        Raises:
            ValueError: when the file is not a manifest, or names a place other than its own.
        """
        try:
            text = (run / MANIFEST).read_text()
        except FileNotFoundError:
            return cls()
        path = run / MANIFEST
        try:
            facts = json.loads(text)
            tiers: Any = {
                tier: {int(step): _entry(tier, int(step), entry) for step, entry in facts.pop(tier).items()}
                for tier in FOLDERS
                if tier in facts or tier != "pruned"
            }
            manifest = cls(**tiers, **facts)
            for number, journal in journals(run):
                if number >= manifest.generation:
                    path = journal
                    manifest._replay(journal.read_bytes())
            return manifest
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"{path} is damaged; move {run / MANIFEST} away to start from nothing") from None

    def _replay(self, content: bytes) -> None:
        whole, _, _ = content.rpartition(b"\n")  # what follows was cut off by a crash
        for line in whole.splitlines():
            change = json.loads(line)
            tier: dict[int, Entry] = {"kept": self.kept, "resumable": self.resumable}[change["tier"]]
            step = int(change["step"])
            if change["entry"] is None:
                tier.pop(step, None)
            else:
                tier[step] = _entry(change["tier"], step, change["entry"])

    def save(self, run: Path) -> None:
        """Writes all of it, and begins a new journal."""
        with _LOCK:
            old = journals(run)
            self.generation = max([self.generation, *(number for number, _ in old)]) + 1
            # Before the manifest, so that a line goes to it at any instant; the journals before it count until then.
            with writing(run / MANIFEST):
                _journal(run, self.generation).touch()
                write_json(run / MANIFEST, dataclasses.asdict(self))
            # A finished run has nothing to add; one that goes on after all begins by writing its manifest.
            for _, journal in [*old, *([(0, _journal(run, self.generation))] if self.finished else [])]:
                journal.unlink(missing_ok=True)

    def chain(self) -> dict[int, Entry]:
        """Kept and pruned steps, in order."""
        steps = {**self.kept, **self.pruned}
        return {step: steps[step] for step in sorted(steps)}

    def parent_of(self, step: int) -> str:
        """The link of the last step that was kept before this one; empty where there is none."""
        return next((entry.link for number, entry in reversed(self.chain().items()) if number < step), "")

    def breaks(self) -> dict[str, str]:
        """What does not descend from the run's first kept step: path -> why."""
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


def add(run: Path, tier: str, step: int, entry: Entry, gone: Iterable[int] = ()) -> None:
    """Lists an entry, and takes the checkpoints of the steps `gone` off the list: one write, at the end of a file."""
    if not (run / MANIFEST).exists() or not journals(run):
        Manifest.load(run).save(run)
    with _LOCK, writing(run / MANIFEST):
        journal = journals(run)[-1][1]
        tip, at = _tip(run, journal)
        if tier == "kept":
            # A step that is written again follows the one before it, not itself.
            entry = entry.after(tip if step > at else Manifest.load(run).parent_of(step))
            tip, at = entry.link, step
        else:
            entry = entry.after(tip)
        changes: list[tuple[str, int, Any]] = [(tier, step, dataclasses.asdict(entry))]
        changes += [("resumable", number, None) for number in gone]
        lines = [
            json.dumps({"tier": tier, "step": number, "tip": tip, "at": at, "entry": facts})
            for tier, number, facts in changes
        ]
        with open(journal, "ab", buffering=0) as file:
            append(file, "".join(f"{line}\n" for line in lines).encode())
            os.fsync(file.fileno())


def _tip(run: Path, journal: Path) -> tuple[str, int]:
    """Link and number of the newest kept step (-1: none), for which the journal's last line is enough."""
    for _, line in lines_backwards(journal):
        facts = json.loads(line)
        return facts["tip"], facts["at"]
    chain = Manifest.load(run).chain()
    return (chain[max(chain)].link, max(chain)) if chain else ("", -1)


def journals(run: Path) -> list[tuple[int, Path]]:
    """The journals of a run folder with their numbers, the oldest first."""
    found = [(path.name.split(".")[1], path) for path in run.glob("manifest.*.journal")]
    return sorted((int(number), path) for number, path in found if number.isdigit())


def _journal(run: Path, number: int) -> Path:
    return run / f"manifest.{number}.journal"


def _entry(tier: str, step: int, facts: dict[str, Any]) -> Entry:
    """An entry as it was read, unless it names a place that is not its own: a manifest may come from anywhere."""
    entry = Entry(**facts)
    inside = all(
        not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts for name in entry.files
    )
    if entry.path != FOLDERS[tier].format(step) or not inside:
        raise ValueError(entry.path)
    return entry
