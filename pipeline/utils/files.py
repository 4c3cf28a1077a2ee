"""Files that are whole or absent, also after a power cut: hashes, writing beside the place and renaming into it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.utils.drafts import write_inside
from pipeline.utils.inside import NO_DIRECTORY_SYNC, warn_once

# What the machine, and not the program, has against writing a file.
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)

LONGEST_LINE = 1 << 22  # bytes; an entry of a checkpoint by 10,000 processes has half of that


class DiskError(OSError):
    """A file could not be written, in one line that says which and why."""

    def __str__(self) -> str:
        return str(self.args[0])


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return digest_of(file)


def digest_of(file: BinaryIO) -> str:
    """Return the SHA-256 of an open file's bytes from here on, in hexadecimal."""
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_DIRECTORY_SYNC or not path.is_dir():
            raise
        warn_once(path)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes or replaces a file in one step, in a folder that is there."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes or replaces a file in one step, in a folder that is there."""
    write_inside(path.parent, path.name, content)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def lines_backwards(file: BinaryIO, block: int = 1 << 16) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file from the last to the first, each with the offset at which it begins.

    A last one without a line break, as a crash leaves it, comes as it is.

    Raises:
        ValueError: at a line that is longer than any of ours.
    """
    begin, tail = file.seek(0, os.SEEK_END), b""
    while begin:
        size = min(block, begin)
        begin -= size
        file.seek(begin)
        content = file.read(size) + tail
        end = len(content)
        # Up to the first line break of the block, which ends a line that begins before it.
        while (cut := content.rfind(b"\n", 0, end - 1)) >= 0:
            yield begin + cut + 1, content[cut + 1 : end]
            end = cut + 1
        tail = content[:end]
        if len(tail) > LONGEST_LINE:
            raise ValueError(f"a line has more than {LONGEST_LINE:,} bytes")
    if tail:
        yield 0, tail


def append(file: FileIO, content: bytes, sync: bool = False) -> None:
    """Adds all of it to an unbuffered file, or nothing; with `sync` it is on the disk then.

    What a failing fsync may or may not have written is cut off again.
    """
    size = file.seek(0, os.SEEK_END)
    try:
        if file.write(content) != len(content):  # how a disk says that it has just become full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)
        if sync:
            os.fsync(file.fileno())
    except OSError:
        file.truncate(size)
        if sync:
            with suppress(OSError):  # the first error is the one to tell
                os.fsync(file.fileno())
        raise


def free_space(path: Path) -> int:
    """Return the bytes that are free on the disk of a file or folder, which need not be there yet."""
    path = path.absolute()
    return shutil.disk_usage(next(each for each in (path, *path.parents) if each.is_dir())).free


@contextmanager
def writing(path: Path | None = None) -> Iterator[None]:
    """Turns a failure to write `path`, or whatever the error names, by whatever library, into a DiskError.

    Libraries in C++ and Rust have exceptions of their own: torch says only that writing failed, safetensors gives the
    system's words.
    """
    try:
        yield
    except DiskError:
        raise
    except Exception as error:  # theirs have no class in common; what is not the disk's goes on as it came
        reason = refusal(error, path or Path())
        if reason is None:
            raise
        raise DiskError(f"{getattr(error, 'filename', None) or path or 'a file'}: {reason}") from error


def refusal(error: BaseException, path: Path) -> str | None:
    """Return the system's words on why `path` could not be written, or None where the error is of another kind."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno) if error.errno in REFUSALS else None
    text = str(error)
    for number in REFUSALS:
        if f"os error {number})" in text or os.strerror(number) in text:
            return os.strerror(number)
    if any(word in text for word in ("PytorchStreamWriter", "inline_container", "iostream error")):
        return os.strerror(errno.ENOSPC) if free_space(path) < 1 << 20 else "writing failed"
    return None
