"""Disks that are full, read-only or lose power, and a loss that is not a number: what was saved stays good."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.circuits import __main__ as explaining
from pipeline.runs.checkpoints import facts_of, keep, newest_good, seal
from pipeline.runs.manifest import Manifest
from pipeline.runs.metrics import read_history
from pipeline.runs.verify import verify
from pipeline.sweep import __main__ as sweep
from pipeline.utils import files
from pipeline.utils.files import DiskError, append, writing
from tests.kept_steps import checkpoint, write_weights
from tests.kills import TEXT, Runner, differences
from tests.tiny import RECIPE, run_here, write_recipe

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    assert run_here(write_recipe(folder, TEXT)) == 0
    return folder / "run"


# From a disk that takes nothing at all to one that is full near the end, in the middle of any file.
@pytest.mark.parametrize("free", [0, 9_000, 70_000, 150_000, 400_000, 800_000, 1_300_000])
def test_a_full_disk_loses_nothing(
    free: int, disk: Path, straight: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe, run, ballast = write_recipe(tmp_path, TEXT), disk / "run", disk / "ballast"
    size = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast.write_bytes(bytes(max(size - free, 0)))
    status = run_here(recipe, "--output_dir", str(run))
    message = capfd.readouterr().err
    assert status in (1, 2)
    assert message.count("\n") == 1 and "No space left on device" in message and str(disk) in message
    if run.exists():
        manifest = Manifest.load(run)
        assert not any(entry.damage(run) for tier in (manifest.kept, manifest.resumable) for entry in tier.values())
    ballast.unlink()
    assert run_here(recipe, "--output_dir", str(run)) == 0
    assert not differences(run, straight)


def test_a_read_only_disk_is_one_line(disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe, run = write_recipe(tmp_path), disk / "run"
    Runner(recipe, words=("--max_steps", "6")).run(run)  # a process of its own, which leaves no file open
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for folder in (run, disk / "new"):
        assert run_here(recipe, "--output_dir", str(folder)) == 2
        message = capfd.readouterr().err
        assert message == f"output_dir: {folder} cannot be written: Read-only file system\n"
    # What is finished can still be asked for.
    assert run_here(recipe, "--output_dir", str(run), "--max_steps", "6") == 0
    assert "is finished" in capfd.readouterr().out


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_analyses_and_sweeps_end_in_one_line(
    how: str, disk: Path, straight: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(straight, disk / "run")
    if how == "full":
        (disk / "ballast").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
    else:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    reason = {"full": "No space left on device", "read-only": "Read-only file system"}[how]
    words = [str(write_recipe(tmp_path, TEXT)), "--seed", "0,1", "--output_dir", str(disk / "sweep")]
    for command in (
        lambda: explaining.main([str(disk / "run"), "--analysis", "logit_lens", "--steps", "last"]),
        lambda: sweep.main(words),
    ):
        assert command() in (1, 2)
        message = capfd.readouterr().err
        assert message.count("\n") == 1 and reason in message and str(disk) in message


def test_what_libraries_say_of_a_full_disk_is_understood(disk: Path, tmp_path: Path) -> None:
    (disk / "ballast").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
    weights = {"a": torch.zeros(100_000)}
    for write in (torch.save, save_file):
        with pytest.raises(DiskError, match="weights: No space left on device"), writing(disk / "weights"):
            write(weights, str(disk / "weights"))
    assert files.refusal(RuntimeError("PytorchStreamWriter failed writing file data/3"), tmp_path) == "writing failed"
    assert files.refusal(RuntimeError("I/O error: Read-only (os error 30)"), tmp_path) == "Read-only file system"
    assert files.refusal(ValueError("a mistake in the code"), tmp_path) is None


def test_a_line_is_added_whole_or_not_at_all(disk: Path) -> None:
    path = disk / "lines"
    with open(path, "ab", buffering=0) as file:
        append(file, b"first\n")
        (disk / "ballast").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
        with pytest.raises(OSError, match="No space"):
            append(file, b"x" * 100_000)
    assert path.read_bytes() == b"first\n"


class Power:
    """What a disk holds if the power goes now: bytes and names that were waited for, and no others.

    The worst that POSIX allows: a file has the content of its last fsync, a folder the names of its last fsync.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.files: dict[int, bytes] = {}
        self.folders: dict[int, dict[str, tuple[int, bool]]] = {}
        self.after_each: list[object] = []
        self._kept_open: list[int] = []  # so that no inode is used twice
        real = os.fsync

        def fsync(descriptor: int) -> None:
            real(descriptor)
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            number = os.fstat(descriptor).st_ino
            self._kept_open.append(os.dup(descriptor))
            if path.is_dir():
                self.folders[number] = {
                    entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in os.scandir(path)
                }
            else:
                self.files[number] = path.read_bytes()

        monkeypatch.setattr(os, "fsync", fsync)

    def restore(self, folder: Path, to: Path) -> Path:
        """The folder as it would be found after the power cut."""
        self._restore(folder.stat().st_ino, to)
        return to

    def _restore(self, number: int, to: Path) -> None:
        to.mkdir()
        for name, (inode, is_folder) in self.folders.get(number, {}).items():
            if is_folder:
                self._restore(inode, to / name)
            else:
                (to / name).write_bytes(self.files.get(inode, b""))

    def close(self) -> None:
        for descriptor in self._kept_open:
            os.close(descriptor)


@pytest.fixture
def power(monkeypatch: pytest.MonkeyPatch) -> Iterator[Power]:
    power = Power(monkeypatch)
    yield power
    power.close()


def test_a_power_cut_at_any_write_leaves_whole_what_is_listed(power: Power, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    listed: list[tuple[set[int], int | None]] = []
    for step in range(6):
        keep(run, step, write_weights(f"weights of {step}"), {})
        listed.append(look(power, run, tmp_path / f"kept{step}"))
        if step % 2:
            checkpoint(run, step)
            seal(run, step, most=1)
            listed.append(look(power, run, tmp_path / f"sealed{step}"))
    assert listed[-1] == ({0, 1, 2, 3, 4, 5}, 5)
    assert [len(kept) for kept, _ in listed] == sorted(len(kept) for kept, _ in listed)


def look(power: Power, run: Path, to: Path) -> tuple[set[int], int | None]:
    found = power.restore(run, to)
    manifest = Manifest.load(found)
    for entry in manifest.kept.values():
        assert entry.damage(found) is None
    return set(manifest.kept), newest_good(found, manifest)[0]


def test_a_run_resumes_after_a_power_cut(power: Power, straight: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, TEXT)
    assert run_here(recipe, "--max_steps", "30") == 0
    found = power.restore(tmp_path / "run", tmp_path / "found")
    assert newest_good(found, Manifest.load(found)) == (30, [])
    assert run_here(recipe, "--output_dir", str(found)) == 0
    assert not differences(found, straight)


def test_a_clock_that_goes_backwards_changes_nothing(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = write_recipe(tmp_path, TEXT), tmp_path / "run"
    now = time.time()
    hours = iter(range(10**9))
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: now - 3600 * next(hours))
        assert run_here(recipe, "--max_steps", "30") == 0
    # The older a checkpoint, the newer its date.
    for step, path in ((28, run / "checkpoint-28"), (30, run / "checkpoint-30")):
        os.utime(path, (now - 1e6 * step, now - 1e6 * step))
    assert run_here(recipe) == 0
    assert not differences(run, straight)
    seconds = [line["seconds"] for line in read_history(run)]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("logging", ["1", "50"])
def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step(
    logging: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A warm-up without end: the rate grows until the weights are past all numbers.
    text = RECIPE.replace("learning_rate: 1e-2", "learning_rate: 1e38\nwarmup_steps: 100").replace(
        "eval_steps: 6", "eval_steps: 1000"
    )
    recipe = write_recipe(tmp_path, text.replace("powers_of_two: true, every: [[10, null]]", "powers_of_two: false"))
    status = run_here(recipe, "--logging_steps", logging, "--save_steps", "1")
    assert status == 1
    message = capsys.readouterr().err
    first = min((line["step"] for line in read_history(tmp_path / "run") if line.get("loss", 0) is None), default=None)
    assert "the loss is not finite at step" in message and message.count("\n") == 1
    named = int(message.split("at step ")[1].split(";")[0])
    manifest = Manifest.load(tmp_path / "run")
    if logging == "1":
        assert first is None or named <= first
    assert all(step < named for step in manifest.kept) and all(step <= named for step in manifest.resumable)
    assert all(damage is None for _, damage in verify(tmp_path / "run"))


def test_facts_are_taken_of_files_that_are_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        facts_of(tmp_path, ["gone"])
