"""Reading, writing and deleting inside a folder that somebody else may have written: no link in it is followed.

A function takes the folder, which its user has named and which may be a link, and the name of what is meant in it. The
way there is gone by descriptor, one folder after the other, so that a link on it, or one that is put there meanwhile,
leads nowhere. Files are read up to a size, and only where they are plain files: a pipe or a device would be waited for.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.utils.errors import RecipeError
from pipeline.utils.log import log

MEGABYTE = 1 << 20
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# A pipe is opened without waiting for its other end, and then refused.
PLAIN = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
# What fsync answers for a folder on file systems that cannot do that: some of FUSE, SMB, and old NFS.
NO_DIRECTORY_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF)
_warned = False


def warn_once(path: Path) -> None:
    """Says, once a process, what a file system that does not sync folders means."""
    global _warned
    if not _warned:
        _warned = True
        log.info(f"{path}: its file system cannot sync folders; a power cut may undo what was written last")


class LinkError(RecipeError):
    """A link stands where a file or a folder is expected."""


@contextmanager
def _named(root: Path, name: str) -> Iterator[None]:
    """Gives an error the whole path, and one line to a link."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            refuse_links(root, name)
            _refuse_files(root, name)
        raise OSError(error.errno, error.strerror, str(root / name)) from None


def refuse_links(root: Path, name: str) -> None:
    """Raises a LinkError when what is meant, or a folder on the way to it, is a link."""
    path = root
    for part in PurePosixPath(name).parts:
        path = path / part
        if path.is_symlink():
            raise LinkError(
                str(path), "is a link, and no link in a run folder is followed; put what it leads to in its place"
            )


def _refuse_files(root: Path, name: str) -> None:
    for number in range(len(PurePosixPath(name).parts)):
        path = root.joinpath(*PurePosixPath(name).parts[: number + 1])
        if path.exists() and not path.is_dir():
            raise RecipeError(str(path), "is in the way; a folder belongs there")


@contextmanager
def opened(root: Path, name: str = "", make: bool = False) -> Iterator[int]:
    """The descriptor of a folder in `root`, which is made where there is none and `make` says so.

    Raises:
        RecipeError: when it, or a folder on the way, is a link.
    """
    parts = PurePosixPath(name).parts
    if ".." in parts or PurePosixPath(name).is_absolute():
        raise RecipeError(str(root), f"{name!r} leads out of the folder")
    if make:
        root.mkdir(parents=True, exist_ok=True)
    with _named(root, name):
        folder = os.open(root, FOLDER)
        try:
            for part in parts:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=folder)
                inner = os.open(part, FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
        except BaseException:
            os.close(folder)
            raise
    try:
        yield folder
    finally:
        os.close(folder)


def open_file(root: Path, name: str, flags: int = os.O_RDONLY) -> int:
    """Return the descriptor of a plain file in `root`, whose folder is made where `flags` make the file.

    Raises:
        RecipeError: when it is a link or no plain file, or would be written and is another file too by a hard link.
    """
    where = PurePosixPath(name)
    with opened(root, str(where.parent), make=bool(flags & os.O_CREAT)) as folder, _named(root, name):
        file = os.open(where.name, flags | PLAIN, 0o666, dir_fd=folder)
    facts = os.fstat(file)
    problem = ""
    if not stat.S_ISREG(facts.st_mode):
        problem = "is not a plain file"
    elif facts.st_nlink > 1 and flags & (os.O_WRONLY | os.O_RDWR):
        problem = "is a hard link, and what it is elsewhere would change too; put a copy in its place"
    if problem:
        os.close(file)
        raise RecipeError(str(root / name), problem)
    return file


def append_to(root: Path, name: str) -> FileIO:
    """Return a file of `root` to add lines to, unbuffered, with the errors of `open_file`."""
    return FileIO(str(root / name), "a", opener=lambda _, flags: open_file(root, name, flags))


def exists(root: Path, name: str) -> bool:
    """Return whether something is there, a link that leads nowhere included."""
    return os.path.lexists(root / name)


def read_bytes(root: Path, name: str, most: int) -> bytes:
    """Return the content of a file of at most so many bytes.

    Raises:
        FileNotFoundError: when there is none.
        RecipeError: when it is larger, a link, or no plain file.
    """
    with open(open_file(root, name), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise RecipeError(str(root / name), f"has {size:,} bytes, and at most {most:,} are read")
        return file.read(most)


def read_text(root: Path, name: str, most: int = MEGABYTE) -> str:
    """Return the text of a file, with the errors of `read_bytes`, and one for what is not UTF-8."""
    try:
        return read_bytes(root, name, most).decode()
    except UnicodeDecodeError:
        raise RecipeError(str(root / name), "is damaged") from None


def read_json(root: Path, name: str, most: int = MEGABYTE) -> Any:
    """Return the value in a JSON file, with the errors of `read_text`, and one for what is not JSON."""
    try:
        return json.loads(read_text(root, name, most))
    except (ValueError, RecursionError):
        raise RecipeError(str(root / name), "is damaged") from None


def sync_folder(folder: int, path: Path) -> None:
    """Waits until the names in a folder are on the disk, where its file system can say so."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in NO_DIRECTORY_SYNC:
            raise
        warn_once(path)


def remove_file(root: Path, name: str) -> bool:
    """Deletes a file, or the link in its place; whether it was there."""
    where = PurePosixPath(name)
    try:
        with opened(root, str(where.parent)) as folder:
            os.unlink(where.name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def remove_tree(folder: int, name: str) -> None:
    """Deletes what has this name in an open folder, with all that is in it; a link is deleted, never followed."""
    try:
        inner = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        os.unlink(name, dir_fd=folder)
        return
    try:
        for entry in os.listdir(inner):
            remove_tree(inner, entry)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=folder)


def remove_listed(root: Path, name: str, files: list[str]) -> bool:
    """Deletes just these files of a folder, and the folders that are empty then; whether nothing of it is left.

    Raises:
        RecipeError: when the folder, or one on the way to a file, is a link.
    """
    folders = {name}
    for file in files:
        folders |= {f"{name}/{parent}" for parent in PurePosixPath(file).parents if parent.parts}
        remove_file(root, f"{name}/{file}")
    for folder in sorted(folders, key=len, reverse=True):
        where = PurePosixPath(folder)
        try:
            with opened(root, str(where.parent)) as parent:
                os.rmdir(where.name, dir_fd=parent)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    return not exists(root, name)
