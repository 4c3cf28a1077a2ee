"""The main job from end to end, on small recipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from pipeline.runs.manifest import Manifest
from pipeline.runs.metrics import read_history
from tests.tiny import COMPOSITION, RECIPE, ROOT, run_here, run_process, write_recipe

FINAL = "steps/step24/model.safetensors"


def same_weights(one: Path, other: Path) -> bool:
    ours, theirs = load_file(one), load_file(other)
    return ours.keys() == theirs.keys() and all(ours[key].equal(theirs[key]) for key in ours)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of RECIPE."""
    folder = tmp_path_factory.mktemp("straight")
    assert run_here(write_recipe(folder)) == 0
    return folder / "run"


def test_a_run_folder_holds_all_that_later_stages_read(straight: Path) -> None:
    names = {path.name for path in straight.iterdir()}
    assert names >= {
        *("recipe.yaml", "environment.json", "corpus", "metrics.jsonl", "steps", "manifest.json"),
        *("report.md", "report.html", "figures", "checkpoint-18", "checkpoint-24"),
    }
    assert not any(name.endswith((".journal", ".draft")) or name == "lock.json" for name in names)
    assert "checkpoint-6" not in names  # save_total_limit is 2
    manifest = Manifest.load(straight)
    assert sorted(manifest.kept) == [0, 1, 2, 4, 8, 10, 16, 20, 24]
    assert sorted(manifest.resumable) == [18, 24]
    assert manifest.finished and manifest.finished["step"] == 24
    assert all(
        entry.metrics.keys() >= {"eval_train_exact_match", "eval_id_exact_match"} for entry in manifest.kept.values()
    )
    environment = json.loads((straight / "environment.json").read_text())
    assert len(environment) == 1 and environment[0]["packages"]["torch"]


def test_metrics_are_logged_at_their_steps(straight: Path) -> None:
    history = read_history(straight)
    evaluated = [line["step"] for line in history if "eval_id_exact_match" in line]
    assert evaluated == [0, 1, 2, 4, 6, 8, 10, 12, 16, 18, 20, 24]
    assert [line["step"] for line in history if "loss" in line] == [1, 3, 6, 9, 12, 15, 18, 21, 24]
    assert [line["step"] for line in history if "weight_norm" in line] == evaluated
    assert all(line["seconds"] >= 0 for line in history)
    last = {key: value for line in history for key, value in line.items()}
    assert last["final_id_greedy_agreement"] == 1.0
    assert 0 <= last["eval_train_softmax_collapse"] <= 1
    # Every row of a split is looked at, so the last evaluation and the final one agree.
    assert last["final_id_exact_match"] == last["eval_id_exact_match"]


def test_a_finished_run_says_so_and_does_nothing(straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in straight.rglob("*")}
    assert run_here(straight.parent / "tiny.yaml") == 0
    assert "is finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in straight.rglob("*")} == before


def test_rerunning_the_resolved_recipe_repeats_the_run(straight: Path, tmp_path: Path) -> None:
    assert run_here(straight / "recipe.yaml", "--output_dir", str(tmp_path / "again")) == 0
    assert same_weights(tmp_path / "again" / FINAL, straight / FINAL)


def test_another_recipe_is_refused_with_the_differing_keys(straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (straight / "recipe.yaml").read_text()
    assert run_here(straight.parent / "tiny.yaml", "--learning_rate", "0.002", "--corpus.seed", "7") == 2
    message = capsys.readouterr().err
    assert "learning_rate: 0.01 there, 0.002 here" in message and "corpus.seed: 0 there, 7 here" in message
    assert message.count("\n") == 1
    assert (straight / "recipe.yaml").read_text() == before


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("Years of work")
    assert run_here(write_recipe(tmp_path), "--output_dir", str(tmp_path / "thesis")) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]


@pytest.mark.parametrize("text", [RECIPE, COMPOSITION], ids=["group", "composition"])
def test_a_run_in_two_parts_ends_with_the_weights_of_a_straight_one(text: str, tmp_path: Path) -> None:
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    recipe = write_recipe(tmp_path, text)
    assert run_here(recipe, "--output_dir", str(straight)) == 0
    # 13 is neither the end of an epoch nor a kept step, and lies between two checkpoints.
    assert run_here(recipe, "--output_dir", str(parts), "--max_steps", "13") == 0
    assert run_here(recipe, "--output_dir", str(parts)) == 0
    assert same_weights(parts / FINAL, straight / FINAL)
    curves = [
        {
            line["step"]: line["eval_id_loss"]
            for line in read_history(run)
            if "eval_id_loss" in line and line["step"] != 13
        }
        for run in (straight, parts)
    ]
    assert curves[0] == curves[1]
    assert len(json.loads((parts / "environment.json").read_text())) == 2


def kill_at(folder: Path, recipe: Path, step: int) -> None:
    """Starts a run and kills it with SIGKILL once it has logged this step."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.run", str(recipe), "--output_dir", str(folder)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not any(line["step"] >= step for line in read_history(folder)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_run_resumes_to_the_same_weights(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Slow enough to be killed in the middle: every step is logged and evaluated.
    recipe = write_recipe(tmp_path)
    kill_at(tmp_path / "run", recipe, 10)
    assert not (tmp_path / "run" / "report.html").exists()
    assert run_here(recipe) == 0
    assert "resumes after step" in capsys.readouterr().out
    assert same_weights(tmp_path / "run" / FINAL, straight / FINAL)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "torn", "missing"])
def test_a_bad_checkpoint_is_named_skipped_and_the_one_before_is_used(
    damage: str, straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    run = tmp_path / "run"
    assert run_here(recipe, "--max_steps", "18") == 0
    weights = run / "checkpoint-18" / "model.safetensors"
    if damage == "truncated":
        os.truncate(weights, weights.stat().st_size // 2)
    elif damage == "flipped":
        content = bytearray(weights.read_bytes())
        content[-5] ^= 1
        weights.write_bytes(content)
    elif damage == "missing":
        (run / "checkpoint-18" / "optimizer.pt").unlink()
    else:
        manifest = Manifest.load(run)
        del manifest.resumable[18]
        manifest.save(run)
    capsys.readouterr()
    assert run_here(recipe) == 0
    out = capsys.readouterr().out
    assert "skipping checkpoint-18" in out and "resumes after step 12" in out
    assert same_weights(run / FINAL, straight / FINAL)


def test_a_run_that_was_trained_but_not_reported_is_only_reported(straight: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    run = tmp_path / "run"
    assert run_here(recipe) == 0
    manifest = Manifest.load(run)
    manifest.finished = None
    manifest.save(run)
    (run / "report.html").unlink()
    assert run_here(recipe) == 0
    assert (run / "report.html").exists()
    assert same_weights(run / FINAL, straight / FINAL)
    assert max(line["step"] for line in read_history(run)) == 24


def test_stop_when_grokked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Label noise cannot be there, and half of Z5 under x^2+y^2 is learned by heart and by rule alike.
    text = RECIPE.replace("group: Z11, train_fraction: 0.5", "group: Z3, operation: '*', train_fraction: 0.9")
    text = text.replace("global_batch_size: 16", "global_batch_size: 8").replace("max_steps: 24", "max_steps: 2000")
    recipe = write_recipe(tmp_path, text + "stop_when: grokked\nstop_patience: 2\n")
    assert run_here(recipe) == 0
    finished = Manifest.load(tmp_path / "run").finished
    assert finished and finished["stopped"] and finished["step"] < 2000
    assert finished["gen_step"] <= finished["step"]
    capsys.readouterr()
    assert run_here(recipe) == 0
    assert "is finished" in capsys.readouterr().out
    # Asked to go on, it does.
    assert run_here(recipe, "--stop_when", "never", "--max_steps", str(finished["step"] + 10)) == 0
    assert Manifest.load(tmp_path / "run").finished["step"] == finished["step"] + 10


def test_the_three_ways_to_start_it_agree(straight: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    ways = {
        "module": ["-m", "pipeline.run"],
        "script": [str(ROOT / "pipeline" / "run.py")],
        "launcher": [
            "-m",
            "accelerate.commands.launch",
            "--cpu",
            "--num_processes",
            "1",
            str(ROOT / "pipeline/run.py"),
        ],
    }
    for name, words in ways.items():
        result = run_process(*words, str(recipe), "--output_dir", name, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert same_weights(tmp_path / name / FINAL, straight / FINAL)
    environment = json.loads((tmp_path / "launcher" / "environment.json").read_text())
    assert environment[0]["command"][-1] == "launcher"
    resolved = yaml.safe_load((tmp_path / "script" / "recipe.yaml").read_text())
    assert resolved["output_dir"] == "script" and resolved["corpus"]["name"] == "group"


def test_what_could_not_be_deleted_goes_with_the_next_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    assert run_here(recipe, "--output_dir", str(run), "--max_steps", "2") == 0
    left = run / ".draft-0123456789abcdef.checkpoint-2"
    left.mkdir()
    (left / "optimizer.pt").write_bytes(b"x")
    assert run_here(recipe, "--output_dir", str(run), "--max_steps", "2") == 0
    assert "is finished" in capsys.readouterr().out and not left.exists()
