"""Disks that are full or read-only under the commands for the Hub: one line, and the same command goes on later."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from pipeline.runs.verify import verify
from tests.hub_server import Hub, HubServer

STEPS = ("--steps", "0,8")


def fill(disk: Path, free: int) -> Path:
    """A file that leaves so many bytes of a disk."""
    ballast = disk / "ballast"
    size = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast.write_bytes(bytes(max(size - free, 0)))
    return ballast


@pytest.mark.parametrize("free", [0, 9_000, 40_000, 60_000])
def test_a_pull_onto_a_full_disk_is_a_line_and_goes_on(
    free: int, kept_run: Path, disk: Path, server: HubServer, hub: Hub
) -> None:
    assert hub("push", kept_run, "--repo", "user/x", *STEPS).status == 0
    ballast = fill(disk, free)
    place = disk / "pulled"
    full = hub("pull", "user/x", "--output", place, *STEPS)
    assert full.status == 2 and full.err.count("\n") == 1 and "trying again" not in full.err, full
    assert "No space left on device" in full.err or "are needed, and" in full.err, full
    ballast.unlink()
    assert hub("pull", "user/x", "--output", place, *STEPS).status == 0
    assert all(damage is None for _, damage in verify(place))
    assert not list(place.glob(".draft-*"))


def test_a_full_place_for_what_is_read_back_is_a_line(
    kept_run: Path, disk: Path, server: HubServer, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    ballast = fill(disk, 9_000)
    for words in (("push", kept_run, "--repo", "user/x", *STEPS), ("verify", kept_run, "--repo", "user/x", *STEPS)):
        full = hub(*words)
        assert full.status == 2 and full.err.count("\n") == 1 and "No space left on device" in full.err, full
    ballast.unlink()
    assert hub("push", kept_run, "--repo", "user/x", *STEPS).status == 0


def test_a_run_on_a_read_only_disk_is_pushed(kept_run: Path, disk: Path, server: HubServer, hub: Hub) -> None:
    run = Path(shutil.copytree(kept_run, disk / "run"))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    done = hub("push", run, "--repo", "user/x", *STEPS)
    assert done.status == 0, done
    assert f"{run / 'pushed.json'} cannot be written (Read-only file system): the next push reads all" in done.out
    assert hub("verify", run, "--repo", "user/x", *STEPS).status == 0
    refused = hub("pull", "user/x", "--output", disk / "pulled")
    assert refused.status == 2 and refused.err == f"{disk / 'pulled'}: Read-only file system\n"
