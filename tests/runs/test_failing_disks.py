"""Disks that fail to sync or are full, and caches that cannot be written: what was saved stays, and is said."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from pipeline.runs import __main__ as upkeep
from pipeline.runs.checkpoints import keep, newest_good, seal
from pipeline.runs.lock import LOCK
from pipeline.runs.manifest import Manifest
from pipeline.runs.verify import verify
from pipeline.utils import drafts, inside
from pipeline.utils.drafts import draft_folder
from pipeline.utils.files import DiskError
from tests.kept_steps import checkpoint, write_weights
from tests.kept_steps import write_run as write_steps
from tests.tiny import SHORT, run_here, tree, write_recipe


def test_a_line_that_cannot_be_synced_costs_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    keep(run, 0, write_weights(), {})
    checkpoint(run, 5)
    seal(run, 5, most=1)
    before = tree(run)
    real = os.fsync

    def fsync(file: int) -> None:
        if os.readlink(f"/proc/self/fd/{file}").endswith(".journal"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    checkpoint(run, 10)
    with pytest.raises(DiskError, match="Input/output error"):
        seal(run, 10, most=1)
    with pytest.raises(DiskError, match="Input/output error"):
        keep(run, 1, write_weights(), {})
    monkeypatch.undo()
    shutil.rmtree(run / "checkpoint-10")
    assert tree(run) == before
    assert newest_good(run, Manifest.load(run)) == (5, [])


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF])
def test_a_file_system_that_does_not_sync_folders_is_one_line(
    number: int, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = os.fsync

    def fsync(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(number, os.strerror(number))
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(inside, "_warned", False)
    run = write_steps(tmp_path / "run")
    assert all(damage is None for _, damage in verify(run))
    assert capsys.readouterr().out.count("cannot sync folders") == 1


def test_prune_makes_room_on_a_full_disk(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_steps(disk / "run")
    for step in (3, 4):
        keep(run, step, write_weights("x" * 200_000), {})
    (disk / "ballast").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
    assert upkeep.main(["prune", str(run), "--keep", "0,1"]) == 0
    assert "3 steps deleted" in capsys.readouterr().out
    assert sorted(Manifest.load(run).kept) == [0, 1] and not (run / LOCK).exists()
    assert all(damage is None for _, damage in verify(run))


def test_a_corpus_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("GROKLAB_CACHE", str(tmp_path / "cache"))
    assert run_here(write_recipe(tmp_path, SHORT)) == 2
    message = capsys.readouterr().err
    assert f"GROKLAB_CACHE: the cache of corpora {tmp_path / 'cache'} cannot be written" in message
    assert message.count("\n") == 1


def test_the_cache_is_cleaned_of_builds_that_were_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.corpora.group import Group
    from pipeline.corpora.store import build

    monkeypatch.setenv("GROKLAB_CACHE", str(tmp_path))
    with draft_folder(tmp_path, "group-1") as living:
        (tmp_path / f".draft-{'0' * 16}.group-2" / "group-2").mkdir(parents=True)
        build(Group(group="Z7"))
        assert [path.name for path in tmp_path.glob(".draft-*")] == [living.home.name]
    assert drafts.DRAFT.fullmatch(living.home.name)
