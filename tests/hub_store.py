"""What the server on loopback holds: repositories with commits and branches, and the faults that are asked of it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
from dataclasses import dataclass, field
from typing import Any

Tree = dict[str, "Blob"]
LFS_ENDINGS = (".safetensors", ".parquet", ".png", ".bin")
DATE = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class Blob:
    """A file in a tree: its bytes, or the sha256 under which LFS stores them."""

    content: bytes = b""
    lfs: str | None = None
    size: int = 0

    @property
    def oid(self) -> str:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.lfs}\nsize {self.size}\n".encode()
        content = self.content if self.lfs is None else pointer
        return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@dataclass
class Repo:
    kind: str
    private: bool
    commits: dict[str, tuple[str | None, Tree]] = field(default_factory=dict)  # sha -> parent and tree
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, branch: str, tree: Tree) -> str:
        parent = self.branches.get(branch)
        text = json.dumps([parent, len(self.commits), sorted((path, blob.oid) for path, blob in tree.items())])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = (parent, tree)
        self.branches[branch] = sha
        return sha

    def find(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    def tree(self, revision: str) -> Tree:
        return self.commits[self.branches[revision]][1]


# What may happen to one request: it is not read, or carried out and the answer is lost; it is answered with a status,
# as are all after it where the Hub is down; or the user presses Ctrl-C while it is under way.
FAULTS = ("reset", "lost", "down", "interrupt", "400", "401", "403", "404", "409", "412", "429", "500", "502", "503")


@dataclass
class Faults:
    """What goes wrong: a share of requests is dropped, the next ones are answered with a status, the next upload rots.

    A dropped upload ends in the middle of its file. Another dropped request ends before it is read or after it was
    carried out, so that only the answer is lost. `kind`, one of FAULTS, happens to the request of the number `at`.
    """

    drop: float = 0.0
    statuses: list[int] = field(default_factory=list)  # of the next changes of a repository
    kind: str = ""
    at: int | None = None
    corrupt: int = 0  # uploads of large files that are stored with a byte changed
    random: random.Random = field(default_factory=lambda: random.Random(0))

    def of(self, number: int) -> str:
        """What happens to the request of this number: nothing, or one of FAULTS."""
        if self.at is None or number < self.at or (number > self.at and self.kind != "down"):
            return ""
        if self.kind == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        return "503" if self.kind == "down" else self.kind


def facts_of(path: str, blob: Blob) -> dict[str, Any]:
    facts: dict[str, Any] = {"type": "file", "path": path, "size": blob.size, "oid": blob.oid}
    return facts if blob.lfs is None else {**facts, "lfs": {"oid": blob.lfs, "size": blob.size, "pointerSize": 134}}
