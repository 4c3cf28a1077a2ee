"""The trackers of `report_to`, for real and offline, each in a process of its own since they keep global state."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.recipe import read_recipe
from pipeline.runs.folder import RunFolder
from pipeline.training.trackers import finish_trackers, prepare_trackers, tracked_name
from tests.hub_server import CLOSED, HubServer
from tests.tiny import run_here, run_process, write_recipe

SHORT = ("--max_steps", "6", "--callbacks.console.style", "off")


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = write_recipe(tmp_path)
    result = run_process("-m", "pipeline.run", str(recipe), "--report_to", "tensorboard", *SHORT, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    events = EventAccumulator(str(tmp_path / "runs" / "tiny" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("eval/id_exact_match")] == [0, 1, 2, 4, 6]
    tags = events.Tags()
    assert "summary/final_id_exact_match" in tags["scalars"] and "figures/curve" in tags["images"]


def test_trackio(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    where = {"TRACKIO_DIR": str(tmp_path / "trackio")}
    result = run_process("-m", "pipeline.run", str(recipe), "--report_to", "trackio", *SHORT, cwd=tmp_path, **where)
    assert result.returncode == 0, result.stderr
    with sqlite3.connect(tmp_path / "trackio" / "groklab.db") as database:
        rows = database.execute("select metrics from metrics where run_name = 'tiny-seed42'").fetchall()
    logged = {key for (row,) in rows for key in json.loads(row)}
    assert {"eval/id_exact_match", "summary/final_id_exact_match", "figures/curve"} <= logged
    assert "train/final_id_exact_match" in logged  # after the last step
    said = result.stdout + result.stderr
    assert said.count("Run finished") == 1 and "Resumed existing run" not in said


def test_wandb_offline_and_the_same_run_after_a_restart(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    command = ("-m", "pipeline.run", str(recipe), "--report_to", "wandb", "--callbacks.console.style", "off")
    command += ("--track_steps", "true")
    for steps in ("6", "12"):
        result = run_process(*command, "--max_steps", steps, cwd=tmp_path, WANDB_MODE="offline")
        assert result.returncode == 0, result.stderr
    run_id = (tmp_path / "runs" / "tiny" / "tracker_id").read_text()
    folders = sorted((tmp_path / "runs" / "tiny" / "wandb").glob(f"offline-run-*-{run_id}"))
    assert len(folders) == 2  # one for each start, all of one run
    # What wandb itself reads in them, and would sync.
    steps = []
    for folder, last, kept in zip(folders, (6, 12), ((0, 1, 2, 4, 6), (0, 1, 2, 4, 6, 8, 10, 12))):
        shown = run_process("-m", "wandb", "leet", "inspect", "--json", str(folder))
        records = [json.loads(line) for line in shown.stdout.splitlines()]
        found: dict[str, list[Any]] = {}
        for record in records:
            found.setdefault(record["type"], []).append(record[record["type"]])
        (described,) = found["run"]
        assert (described["run_id"], described["display_name"], described["resume"]) == (run_id, "tiny-seed42", True)
        history = [item["item"] for item in found["history"]]
        steps += [item["train/global_step"] for item in history if "eval/id_exact_match" in item]
        final = {key: value for item in found["summary"] for key, value in item["update"].items()}
        assert 0 <= final["final_id_exact_match"] <= 1 and final["train/global_step"] == last
        (picture,) = [item for item in history if "figures/curve.path" in item]
        assert (folder / "files" / picture["figures/curve.path"]).read_bytes().startswith(b"\x89PNG")
        assert [item["name"] for item in found["artifact"]] == [f"tiny-seed42-step{step}" for step in kept]
    assert steps == [0, 1, 2, 4, 6, 8, 10, 12]


def test_a_tracked_run_is_named_by_what_differs(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    words = ["--corpus.train_fraction=0.4", "--weight_decay", "0.3", "--seed", "7", "--max_steps", "9"]
    assert tracked_name(read_recipe(recipe, words)) == "tiny-train_fraction=0.4-weight_decay=0.3-seed7"
    assert tracked_name(read_recipe(recipe, ["--run_name", "mine"])) == "mine"


def test_wandb_without_a_key_or_a_network_logs_offline_instead_of_asking(
    tmp_path: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    # So that what is set here is unset again.
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_SILENT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    prepare_trackers(["wandb"], tmp_path, "project")
    assert os.environ["WANDB_MODE"] == "offline" and os.environ["WANDB_PROJECT"] == "project"
    assert "wandb has no key, so it logs offline; send it later with: wandb sync" in capsys.readouterr().out
    del os.environ["WANDB_MODE"]
    os.environ["WANDB_API_KEY"] = "0" * 40
    monkeypatch.setenv("WANDB_BASE_URL", server.endpoint)  # somebody answers
    prepare_trackers(["wandb"], tmp_path, "project")
    assert "WANDB_MODE" not in os.environ and not capsys.readouterr().out
    monkeypatch.setenv("WANDB_BASE_URL", CLOSED)
    prepare_trackers(["wandb"], tmp_path, "project")
    assert os.environ["WANDB_MODE"] == "offline"
    assert f"wandb cannot reach {CLOSED}, so it logs offline" in capsys.readouterr().out
    del os.environ["WANDB_API_KEY"]


def test_a_tracker_that_dies_does_not_take_the_run_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers.integrations import TensorBoardCallback

    from pipeline.config.recipe import read_recipe
    from pipeline.training.session import prepare, train

    words = ["--output_dir", str(tmp_path / "run"), "--report_to", "tensorboard", *SHORT]
    trainer = prepare(read_recipe(write_recipe(tmp_path), words))
    (board,) = [each for each in trainer.callback_handler.callbacks if isinstance(each, TensorBoardCallback)]

    class Dead:
        def add_scalar(self, *_: object) -> None:
            raise ConnectionResetError("Connection lost")

        def add_text(self, *_: object) -> None:
            """What is told before the first step."""

        close = flush = add_text

    board.tb_writer = Dead()
    train(trainer)
    assert trainer.state.global_step == 6
    said = capsys.readouterr().out
    assert said.count("TensorBoardCallback has failed and is left out: Connection lost; metrics.jsonl goes on") == 1


def test_what_fails_at_the_end_does_not_keep_other_trackers_from_theirs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run_here(write_recipe(tmp_path), *SHORT) == 0
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    wandb = SimpleNamespace(run=SimpleNamespace())  # which has no summary
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    ended: list[str] = []
    callbacks = [
        SimpleNamespace(at_end=end) for end in (lambda: ended.append("one"), lambda: 1 / 0, lambda: ended.append("two"))
    ]
    capsys.readouterr()
    finish_trackers(["wandb", "tensorboard"], RunFolder(tmp_path / "run"), "name", "project", False, callbacks)
    assert "summary/final_id_exact_match" in EventAccumulator(str(tmp_path / "board")).Reload().Tags()["scalars"]
    assert ended == ["one", "two"]
    said = capsys.readouterr().out
    assert said.count("wandb has failed at the end: ") == 1 and said.count("; the report has everything") == 2
