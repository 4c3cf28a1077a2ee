"""Files and folders that are whole or absent: written under a name of their own, then renamed to their place.

A draft lies at the top of its folder and is called `.draft-` and 16 random digits; that of a folder also says what it
becomes, and stays as an empty folder until that is done. So the drafts are the list of what a crash may have left, and
nothing else is ever taken for such. Whoever writes a draft holds it by flock, which ends with the process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from pipeline.utils.errors import RecipeError
from pipeline.utils.inside import FOLDER, PLAIN, exists, opened, refuse_links, remove_tree, sync_folder
from pipeline.utils.log import log

DRAFT = re.compile(r"\.draft-[0-9a-f]{16}(?:\.(?P<becomes>.+))?")


def flock(file: int) -> bool | None:
    """Return whether the lock of an open file was taken; None where the file system has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # EBADF: NFS locks only what is open for writing, which a folder never is.
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF):
            return None
        raise
    return True


def _take_draft(top: int, becomes: str = "") -> tuple[str, int]:
    """Return a new draft, a folder where it says what it becomes, and its descriptor, which holds the lock."""
    while True:
        name = f".draft-{secrets.token_hex(8)}" + (f".{becomes.replace('/', '.')}" if becomes else "")
        if becomes:
            os.mkdir(name, dir_fd=top)
        try:
            flags = FOLDER | os.O_NOFOLLOW if becomes else os.O_WRONLY | os.O_CREAT | os.O_EXCL | PLAIN
            held = os.open(name, flags, 0o666, dir_fd=top)
            # Someone may clean up between the two.
            there = os.stat(name, dir_fd=top, follow_symlinks=False)
            if flock(held) is not False and os.path.samestat(os.fstat(held), there):
                return name, held
            os.close(held)
        except FileNotFoundError:
            continue


def write_inside(root: Path, name: str, content: bytes) -> None:
    """Writes or replaces a file of `root` in one step; folders on the way are made.

    Raises:
        RecipeError: when one of them is a link.
    """
    where = PurePosixPath(name)
    with opened(root) as top, opened(root, str(where.parent), make=True) as folder:
        draft, held = _take_draft(top)
        try:
            with open(held, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.replace(draft, where.name, src_dir_fd=top, dst_dir_fd=folder)
        except OSError as error:
            with suppress(OSError):
                os.unlink(draft, dir_fd=top)
            if isinstance(error, IsADirectoryError):
                raise _in_the_way(root / name) from None
            raise OSError(error.errno, error.strerror, str(root / name)) from None
        sync_folder(folder, root / where.parent)


def check_place(root: Path, name: str) -> None:
    """Check that a file can be written as `name` in `root`, where no folder may stand.

    Raises:
        RecipeError: when one does.
    """
    if (root / name).is_dir():
        raise _in_the_way(root / name)


def _in_the_way(path: Path) -> RecipeError:
    return RecipeError(str(path), "is in the way; a file belongs there")


class Draft:
    """A folder that is being written by whoever is given its path, and becomes `name` in `root` when it is published.

    `home` holds it under its last name, as a Trainer wants it.
    """

    def __init__(self, root: Path, name: str, top: int, home: str):
        self.root, self.name, self._top = root, name, top
        self.home = root / home
        self.path = self.home / PurePosixPath(name).name
        self._made = os.stat(self.path, follow_symlinks=False).st_ino
        self.published = False

    def publish(self) -> None:
        """Renames it to its place, once all of it is on the disk. What stands there already is set aside.

        Raises:
            RecipeError: when a link stands in its place, on the way there, or in it.
        """
        where = PurePosixPath(self.name)
        refuse_links(self.root, self.name)
        with opened(self.root, self.home.name) as home, opened(self.root, str(where.parent), make=True) as folder:
            _sync_tree(home, where.name, self.path, self._made)
            sync_folder(self._top, self.root)  # that it is a draft is known before it is anything else
            set_aside(self.root, self.name)
            os.rename(where.name, where.name, src_dir_fd=home, dst_dir_fd=folder)
            self.published = True
            sync_folder(folder, self.root / where.parent)

    def publish_files(self, is_synced: bool = True) -> None:
        """Moves its files into the folder that is there, each in the place of the one of its name.

        Only what can be told from a torn file at its next reading need not be synced.
        """
        with opened(self.root, self.home.name) as home, opened(self.root, self.name, make=True) as folder:
            if is_synced:
                _sync_tree(home, PurePosixPath(self.name).name, self.path, self._made)
            with opened(self.root, f"{self.home.name}/{PurePosixPath(self.name).name}") as draft:
                for file in sorted(os.listdir(draft)):
                    try:
                        os.replace(file, file, src_dir_fd=draft, dst_dir_fd=folder)
                    except IsADirectoryError:
                        raise _in_the_way(self.root / self.name / file) from None
            if is_synced:
                sync_folder(folder, self.root / self.name)

    def _withdraw(self) -> None:
        where = PurePosixPath(self.name)
        with suppress(OSError), opened(self.root, str(where.parent)) as folder:
            if os.stat(where.name, dir_fd=folder, follow_symlinks=False).st_ino == self._made:
                remove_tree(folder, where.name)


@contextmanager
def draft_folder(root: Path, name: str) -> Iterator[Draft]:
    """A new folder to write into; gone after the block unless it was published, and then too after an error."""
    with opened(root, make=True) as top:
        home, held = _take_draft(top, name)
        try:
            os.mkdir(PurePosixPath(name).name, dir_fd=held)
            draft = Draft(root, name, top, home)
            try:
                yield draft
            except BaseException:
                if draft.published:
                    draft._withdraw()
                raise
        finally:
            with suppress(OSError):  # a disk that fails says so elsewhere; the next start deletes it
                remove_tree(top, home)
            os.close(held)


@contextmanager
def new_folder(root: Path, name: str) -> Iterator[Path]:
    """A new folder to write into, which becomes `name` in `root` when the block ends without an error."""
    with draft_folder(root, name) as draft:
        yield draft.path
        draft.publish()


def set_aside(root: Path, name: str, why: str = "is not listed as this run's") -> None:
    """Renames what stands in the place of something new, and says so: it is on no list, so it is not ours to delete."""
    where = PurePosixPath(name)
    with opened(root, str(where.parent)) as folder:
        with suppress(OSError):
            os.rmdir(where.name, dir_fd=folder)  # an empty folder
        if not exists(root, name):
            return
        number = next(number for number in range(1, 1 << 30) if not exists(root, f"{name}.old-{number}"))
        os.rename(where.name, f"{where.name}.old-{number}", src_dir_fd=folder, dst_dir_fd=folder)
        log.info(f"{root / name} {why}; it is now {where.name}.old-{number}")


def left_behind(root: Path, is_owner: bool) -> Iterator[tuple[str, str]]:
    """Yield the drafts in a folder whose writers are gone, each with the name of what it was to become ("" for a file).

    is_owner: nobody else keeps drafts here, so that they are gone too where the file system has no locks.
    """
    with opened(root) as top:
        for name in sorted(os.listdir(top)):
            match = DRAFT.fullmatch(name)
            if match is None:
                continue
            try:
                file = os.open(name, os.O_RDONLY | PLAIN, dir_fd=top)
            except OSError:  # a link, or gone
                continue
            try:
                is_folder = stat.S_ISDIR(os.fstat(file).st_mode)
                is_gone = flock(file)
                if (is_gone or (is_gone is None and is_owner)) and is_folder == bool(match["becomes"]):
                    yield name, match["becomes"] or ""
            finally:
                os.close(file)


def clean(root: Path, is_owner: bool) -> None:
    """Deletes the drafts whose writers are gone, and nothing else."""
    for name, _ in left_behind(root, is_owner):
        with opened(root) as top, suppress(FileNotFoundError):
            remove_tree(top, name)


def _sync_tree(folder: int, name: str, path: Path, number: int | None = None) -> None:
    """Waits until a draft with all that is in it is on the disk.

    Raises:
        RecipeError: at a link, which nobody writes into a draft of ours.
    """
    refuse_links(path.parent, name)
    inner = os.open(name, FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    try:
        if number is not None and os.fstat(inner).st_ino != number:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        for entry in sorted(os.listdir(inner)):
            refuse_links(path, entry)
            kind = os.stat(entry, dir_fd=inner, follow_symlinks=False).st_mode
            if stat.S_ISDIR(kind):
                _sync_tree(inner, entry, path / entry)
                continue
            file = os.open(entry, os.O_RDONLY | PLAIN, dir_fd=inner)
            try:
                os.fsync(file)
            finally:
                os.close(file)
        sync_folder(inner, path)
    finally:
        os.close(inner)
