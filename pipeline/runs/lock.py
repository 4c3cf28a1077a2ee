"""One process at a time writes to a run folder.

The lock is a file, `lock.json`, that its owner holds by flock, which the system lets go of when the owner dies. On a
file system whose locks do not reach other machines the file's own words decide: the owner counts `beat` up, and a
count that stands still is that of a run that died. No clock is read, since those of two machines differ.

At every beat the owner looks whether the file is still its own: where there is no flock, where someone has deleted the
file, or where a process was suspended for longer than others watch, another run may have taken the folder over. Then
this one ends at once, and writes nothing more.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import secrets
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.utils.drafts import flock
from pipeline.utils.errors import RecipeError
from pipeline.utils.files import refusal
from pipeline.utils.inside import open_file
from pipeline.utils.log import log

LOCK = "lock.json"
BEAT = 5.0  # seconds between two beats
PATIENCE = 6 * BEAT  # seconds for which another machine's beat is watched


class HeldError(RecipeError):
    """The folder is another process's."""


class RunLock:
    """Holds a run folder, which it makes where there is none, as a context.

    Raises:
        HeldError: when another process holds the folder, with its host and pid.
        RecipeError: when it cannot be written.
    """

    def __init__(
        self, run: Path, is_full: bool = False, lost: Callable[[str], None] | None = None, waits: bool = False
    ):
        """Args:
        is_full: Holds the folder also where the disk has no room for the file's words.
        lost: What ends a run whose folder another one has taken; it is given the reason, in a line.
        waits: Waits for another process that holds the folder, in place of an error.
        """
        self.run, self._waits = run, waits
        self._is_full, self._lost = is_full, lost or _end
        self._path = run / LOCK
        self._stop = threading.Event()
        self._guard = threading.Lock()  # of the file, which a beat may make anew
        self._facts: dict[str, Any] = {"host": platform.node(), "pid": os.getpid(), "boot": _boot(), "beat": 0}
        self._facts["owner"] = secrets.token_hex(8)

    def __enter__(self) -> RunLock:
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            self._file = self._open_in_turn() if self._waits else self._open()
            try:
                self._write()
            except OSError as error:
                if not (self._is_full and error.errno in (errno.ENOSPC, errno.EDQUOT)):
                    self._leave()
                    raise
        except OSError as error:
            reason = refusal(error, self.run)
            if reason is None:
                raise
            raise RecipeError("output_dir", f"{self.run} cannot be written: {reason}") from None
        threading.Thread(target=self._beat, name="run lock", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        with self._guard:
            self._leave()

    def _leave(self) -> None:
        with suppress(OSError):  # a disk that fails: the lock ends with the descriptor
            if self._is_ours():
                os.unlink(self._path)
        os.close(self._file)
        with suppress(OSError):
            os.rmdir(self.run)  # where nothing was written

    def _is_ours(self) -> bool:
        """Return whether the file at its place is the one that is held, and says nothing of another owner."""
        try:
            is_same = os.path.samestat(os.fstat(self._file), os.lstat(self._path))
        except FileNotFoundError:
            return False
        says = _facts_in(self._file)
        return is_same and (not says or bool(says.get("owner") == self._facts["owner"]))

    def _open_in_turn(self) -> int:
        """Return the lock file, held, as soon as its owner lets go of it."""
        said = ""
        while True:
            try:
                return self._open()
            except HeldError as held:
                if held.message != said:
                    log.info(f"{held.message.partition(';')[0]}, which it waits for")
                said = held.message
                time.sleep(BEAT / 10)

    def _open(self) -> int:
        """Return the lock file, held; unless its owner is alive."""
        while True:
            file = open_file(self.run, LOCK, os.O_RDWR | os.O_CREAT)
            reaches = flock(file)
            if reaches is False:
                owner = _facts_in(file)
                os.close(file)
                raise self._held(owner)
            try:
                is_same = os.path.samestat(os.fstat(file), os.lstat(self._path))
            except FileNotFoundError:
                is_same = False
            if not is_same:  # its owner has just deleted it
                os.close(file)
                continue
            owner = _facts_in(file)
            if owner and not (reaches and owner.get("boot") == self._facts["boot"]):
                self._watch(owner)
            if owner:
                log.info(f"the lock of {_owner(owner)} is stale: that process is gone")
            return file

    def _watch(self, owner: dict[str, Any]) -> None:
        """Waits whether the owner, on another machine as far as can be told, shows that it is alive."""
        log.info(f"{self.run} was held by {_owner(owner)}; watching for {PATIENCE:.0f} s whether it lives")
        for _ in range(int(PATIENCE / BEAT * 4)):
            time.sleep(BEAT / 4)
            now = json_of(self._path)
            if now.get("beat") != owner.get("beat"):
                raise self._held(now)

    def _held(self, owner: dict[str, Any]) -> HeldError:
        return HeldError(
            "output_dir", f"{self.run} is in use by {_owner(owner)}; wait for it, or choose another with --output_dir"
        )

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            self._facts["beat"] += 1
            try:
                with self._guard:
                    if self._stop.is_set():
                        return
                    if not self._is_ours() and not self._taken_back():
                        owner = _owner(json_of(self._path))
                        self._lost(f"{self.run} was taken over by {owner}; this run ends here and writes nothing more")
                        return
                    self._write()
            except OSError:
                continue  # the disk is full or gone, which the run itself reports

    def _taken_back(self) -> bool:
        """Return whether the file was only deleted, so that it could be made again."""
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return False
        if flock(file) is False:  # of one who came in between
            os.close(file)
            return False
        os.close(self._file)
        self._file = file
        return True

    def _write(self) -> None:
        content = json.dumps(self._facts).encode()
        os.pwrite(self._file, content.ljust(256) + b"\n", 0)


def json_of(path: Path) -> dict[str, Any]:
    """Return what a lock file says; nothing where it is gone or half-written."""
    try:
        file = open_file(path.parent, path.name)
    except (FileNotFoundError, RecipeError):
        return {}
    try:
        return _facts_in(file)
    finally:
        os.close(file)


def _facts_in(file: int) -> dict[str, Any]:
    try:
        facts = json.loads(os.pread(file, 4096, 0))
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _owner(owner: dict[str, Any]) -> str:
    return f"pid {owner.get('pid', '?')} on {owner.get('host', '?')}"


def _end(reason: str) -> None:
    """Ends the process where it stands, which a run survives as it does any other kill."""
    # Not through `log`, whose lock the main thread may hold while nobody reads what it writes.
    sys.stderr.write(f"\n{reason}\n")
    sys.stderr.flush()
    os._exit(1)


def _boot() -> str:
    """Return what tells this start of this machine from every other."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return platform.node()
