"""One process at a time writes to a run folder.

The lock is a file, `lock.json`, that its owner holds by flock, which the system lets go of when the owner dies. On a
file system whose locks do not reach other machines the file's own words decide: the owner counts `beat` up, and a
count that stands still is that of a run that died. No clock is read, since those of two machines differ.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import threading
import time
from pathlib import Path
from typing import Any

from pipeline.files import refusal
from pipeline.reading import RecipeError

LOCK = "lock.json"
BEAT = 5.0  # seconds between two beats
PATIENCE = 6 * BEAT  # seconds for which another machine's beat is watched


class RunLock:
    """Holds a run folder, which it makes where there is none, as a context.

    Raises:
        RecipeError: when another process holds the folder, with its host and pid, or when it cannot be written.
    """

    def __init__(self, run: Path):
        self.run = run
        self._path = run / LOCK
        self._stop = threading.Event()
        self._facts: dict[str, Any] = {"host": platform.node(), "pid": os.getpid(), "boot": _boot(), "beat": 0}

    def __enter__(self) -> RunLock:
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
            try:
                self._write()
            except OSError:
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
        self._leave()

    def _leave(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._file)
        if not any(self.run.iterdir()):
            self.run.rmdir()

    def _open(self) -> int:
        """The lock file, held; unless its owner is alive."""
        while True:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            reaches = _flock(file)
            if reaches is False:
                raise self._held(_read(file))
            try:
                is_same = os.fstat(file).st_ino == os.stat(self._path).st_ino
            except FileNotFoundError:
                is_same = False
            if not is_same:  # its owner has just deleted it
                os.close(file)
                continue
            owner = _read(file)
            if owner and not (reaches and owner.get("boot") == self._facts["boot"]):
                self._watch(owner)
            if owner:
                print(f"the lock of {_name(owner)} is stale: that process is gone", flush=True)
            return file

    def _watch(self, owner: dict[str, Any]) -> None:
        """Waits whether the owner, on another machine as far as can be told, shows that it is alive."""
        print(f"{self.run} was held by {_name(owner)}; watching for {PATIENCE:.0f} s whether it lives", flush=True)
        for _ in range(int(PATIENCE / BEAT * 4)):
            time.sleep(BEAT / 4)
            now = json_of(self._path)
            if now.get("beat") != owner.get("beat"):
                raise self._held(now)

    def _held(self, owner: dict[str, Any]) -> RecipeError:
        return RecipeError(
            "output_dir", f"{self.run} is in use by {_name(owner)}; wait for it, or choose another with --output_dir"
        )

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            self._facts["beat"] += 1
            try:
                self._write()
            except OSError:
                return  # the disk is full or gone, which the run itself reports

    def _write(self) -> None:
        content = json.dumps(self._facts).encode()
        os.pwrite(self._file, content.ljust(256) + b"\n", 0)


def json_of(path: Path) -> dict[str, Any]:
    """What a lock file says; nothing where it is gone or half-written."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return {}
    try:
        return _read(file)
    finally:
        os.close(file)


def _read(file: int) -> dict[str, Any]:
    try:
        facts = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _flock(file: int) -> bool | None:
    """Whether the lock was taken; None where the file system has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            return None
        raise
    return True


def _name(owner: dict[str, Any]) -> str:
    return f"pid {owner.get('pid', '?')} on {owner.get('host', '?')}"


def _boot() -> str:
    """What tells this start of this machine from every other."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()
