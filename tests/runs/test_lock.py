"""Two runs on one folder: the second is refused, unless the first is gone."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.runs import lock
from pipeline.runs.lock import LOCK, RunLock
from pipeline.utils.errors import RecipeError
from tests.kills import Runner, join
from tests.tiny import run_here, write_recipe
from tests.utils.test_signals import ENDLESS, wait_for_step


def test_a_second_run_is_refused_with_the_first_one_s_host_and_pid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, ENDLESS)
    (process,) = Runner(recipe).start(tmp_path / "run")
    wait_for_step(tmp_path / "run", 1)
    assert run_here(recipe) == 2
    message = capsys.readouterr().err
    assert f"is in use by pid {process.pid} on {platform.node()}; wait for it, or choose another" in message
    assert message.count("\n") == 1
    # Killed, it leaves a lock that no longer holds.
    process.kill()
    join([process])
    assert (tmp_path / "run" / LOCK).exists()
    assert run_here(recipe, "--max_steps", "24") == 0
    assert f"the lock of pid {process.pid} on {platform.node()} is stale" in capsys.readouterr().out
    assert not (tmp_path / "run" / LOCK).exists()


def other_machine(run: Path, beat: int = 7) -> None:
    run.mkdir(exist_ok=True)
    facts = {"host": "node7", "pid": 4711, "boot": "another", "beat": beat}
    (run / LOCK).write_text(json.dumps(facts))


def test_another_machine_s_lock_that_stands_still_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.02)
    monkeypatch.setattr(lock, "PATIENCE", 0.12)
    other_machine(tmp_path / "run")
    with RunLock(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
    out = capsys.readouterr().out
    assert "was held by pid 4711 on node7; watching" in out and "is stale" in out


def test_another_machine_s_lock_that_counts_on_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.02)
    monkeypatch.setattr(lock, "PATIENCE", 0.12)
    other_machine(tmp_path / "run")
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: other_machine(tmp_path / "run", beat=8))
    with pytest.raises(RecipeError, match="in use by pid 4711 on node7"), RunLock(tmp_path / "run"):
        pass


def test_the_owner_counts_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with RunLock(tmp_path / "run") as held:
        while held._facts["beat"] < 3:
            pass
        assert lock.json_of(tmp_path / "run" / LOCK)["boot"]
        with pytest.raises(RecipeError, match=f"in use by pid {os.getpid()}"), RunLock(tmp_path / "run"):
            pass
    assert not (tmp_path / "run").exists()


def test_a_start_that_was_killed_before_it_had_a_recipe_can_be_repeated(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / LOCK).touch()
    (run / ".recipe.yaml.draft").write_text("corp")
    assert run_here(write_recipe(tmp_path)) == 0
    assert not (run / ".recipe.yaml.draft").exists()


def test_the_first_of_two_owners_notices_at_its_next_beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.02)
    run, said = tmp_path / "run", list[str]()
    with RunLock(run, lost=said.append):
        (run / LOCK).unlink()
        with RunLock(run, lost=lambda reason: pytest.fail(reason)) as second:
            wait_until(lambda: bool(said))
            assert json.loads((run / LOCK).read_text())["owner"] == second._facts["owner"]
            owner = f"pid {os.getpid()} on {platform.node()}"
            assert said == [f"{run} was taken over by {owner}; this run ends here and writes nothing more"]
            (run / "kept").touch()
    assert not (run / LOCK).exists()


@pytest.mark.parametrize("reaches", [None, True])
def test_an_owner_that_was_suspended_notices_who_came_meanwhile(
    reaches: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.02)
    monkeypatch.setattr(lock, "flock", lambda file: reaches)
    said = list[str]()
    with RunLock(tmp_path / "run", lost=said.append):
        other_machine(tmp_path / "run")  # past the watch, on a file system without flock
        wait_until(lambda: bool(said))
    assert "taken over by pid 4711 on node7" in said[0] and len(said) == 1
    assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == 4711  # which is not ours to delete


def test_a_lock_that_was_only_deleted_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.02)
    run = tmp_path / "run"
    with RunLock(run, lost=lambda reason: pytest.fail(reason)):
        (run / LOCK).unlink()
        wait_until(lambda: (run / LOCK).exists())
        with pytest.raises(RecipeError, match="is in use by"), RunLock(run):
            pass
    assert not run.exists()


def test_a_run_whose_folder_was_taken_over_ends_at_once(tmp_path: Path) -> None:
    recipe, run = write_recipe(tmp_path, ENDLESS), tmp_path / "run"
    (process,) = Runner(recipe, environment={"GROKLAB_STATUS": str(tmp_path / "status")}).start(run)
    wait_for_step(run, 1)
    (run / LOCK).unlink()
    with RunLock(run):
        process.join(30)
        assert process.exitcode == 1 and (tmp_path / "status").read_text() == "1\n"
        said = (tmp_path / "run.log").read_text()
        assert f"\n{run} was taken over by pid {os.getpid()}" in said and "Traceback" not in said


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert true()
