"""A folder of weights as a run's manifest lists it: where it lies, its files, and what it descends from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.utils.errors import RecipeError
from pipeline.utils.files import digest_of
from pipeline.utils.inside import LinkError, open_file

FOLDERS = {"kept": "steps/step{}", "pruned": "steps/step{}", "resumable": "checkpoint-{}"}
OURS = re.compile(r"(?:steps/step|checkpoint-)(?:0|[1-9][0-9]{0,14})")  # the folders that a list may name


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

    @property
    def weights_hash(self) -> str:
        """The sha256 of the weights; where they are several files, that of their hashes."""
        names = sorted(name for name in self.files if name.endswith(".safetensors") and "/" not in name)
        hashes = [self.files[name]["sha256"] for name in names]
        return str(hashes[0]) if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()

    def after(self, parent: str) -> Entry:
        """Return the same as the successor of the kept step with this link."""
        entry = dataclasses.replace(self, parent=parent)
        return dataclasses.replace(entry, link=entry.expected_link())

    def expected_link(self) -> str:
        content = json.dumps([self.parent, self.path, self.files, self.metrics], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def damage(self, run: Path) -> str | None:
        """What is wrong with the folder on disk, or None: files missing, of another size, or with other bytes."""
        for name, facts in self.files.items():
            try:
                file = open_file(run, f"{self.path}/{name}")
            except LinkError:
                return f"{name} leads out of the run folder"
            except RecipeError as error:
                return f"{name} {error.message}"
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return f"{name} is missing"
            with open(file, "rb") as content:
                size = os.fstat(content.fileno()).st_size
                if size != facts["bytes"]:
                    return f"{name} has {size} bytes, not {facts['bytes']}"
                if digest_of(content) != facts["sha256"]:
                    return f"{name} is corrupted: its sha256 is not the recorded one"
        return None


def read_entry(tier: str, place: int | str, facts: dict[str, Any]) -> Entry:
    """An entry as it was read, unless it names a place that is not its own: a manifest may come from anywhere."""
    entry = Entry(**facts)
    expected = place if tier == "going" else FOLDERS[tier].format(place)
    typed = (
        all(isinstance(text, str) for text in (entry.path, entry.parent, entry.link))
        and all(_is_inside(name) and type(file["bytes"]) is int for name, file in entry.files.items())
        and all(isinstance(file["sha256"], str) for file in entry.files.values())
        and all(type(value) in (int, float) for value in entry.metrics.values())
    )
    if not typed or entry.path != expected or not OURS.fullmatch(entry.path):
        raise ValueError(entry.path)
    return entry


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and name.isprintable()
