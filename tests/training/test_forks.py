"""A fork goes on from a step of another run: to the bit, or under its own keys."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.runs.folder import RunFolder
from pipeline.runs.manifest import Manifest
from tests.bases import recipe_of
from tests.tiny import RECIPE, ROOT, free_port, run_here, run_process, write_recipe

PARENT = RECIPE.replace("max_steps: 24", "max_steps: 12") + "save_total_limit: 8\n"


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parent")
    assert run_here(write_recipe(folder, PARENT)) == 0
    return folder / "run"


def fork(parent: Path, folder: Path, step: str, *words: str) -> int:
    path = write_recipe(folder, PARENT)
    return run_here(path, f"--fork={parent}@{step}", f"--output_dir={folder / 'fork'}", *words)


def last_weights(run: Path) -> str:
    return str(Manifest.load(run).kept[12].files["model.safetensors"]["sha256"])


def test_a_fork_without_other_keys_is_the_straight_run(
    parent: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert fork(parent, tmp_path, "6") == 0
    run = tmp_path / "fork"
    assert last_weights(run) == last_weights(parent)
    assert "goes on from step 6 of" in (out := capfd.readouterr().out) and "with its optimizer" in out
    found = json.loads((run / "environment.json").read_text())[0]["fork"]
    assert (found["parent"], found["step"], found["optimizer"]) == (str(parent), 6, True)
    key = "eval_id_exact_match"
    assert RunFolder(run).series[key] == RunFolder(parent).series[key]
    assert f"forks from {parent.name} at 6" in (run / "figures" / "curve.svg").read_text()
    assert min(Manifest.load(run).kept) > 6

    # It is finished, and needs its parent no more.
    assert fork(parent, tmp_path, "6") == 0 and "is finished" in capfd.readouterr().out


def test_a_fork_goes_on_from_its_own_checkpoint_or_from_its_step_again(
    parent: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saving = ("--save_steps=2", "--save_total_limit=8")
    assert fork(parent, tmp_path, "6", *saving, "--max_steps=10") == 0
    assert fork(parent, tmp_path, "6", *saving) == 0
    run = tmp_path / "fork"
    assert "resumes after step 10" in capfd.readouterr().out and last_weights(run) == last_weights(parent)
    # Not one of its checkpoints is whole any more: it begins where it began, and not at step 0.
    manifest = Manifest.load(run)
    manifest.finished = None
    manifest.save(run)
    for path in run.glob("checkpoint-*/optimizer.pt"):
        path.write_bytes(b"damaged")
    assert fork(parent, tmp_path, "6", *saving) == 0
    assert "goes on from step 6 of" in capfd.readouterr().out and last_weights(run) == last_weights(parent)


def test_other_keys_are_in_force(parent: Path, tmp_path: Path) -> None:
    words = ("--learning_rate=1e-3", "--weight_decay=0.5", "--max_steps=24", "--lr_scheduler_type=linear")
    assert fork(parent, tmp_path, "6", *words) == 0
    lines = [json.loads(line) for line in (tmp_path / "fork" / "metrics.jsonl").read_text().splitlines()]
    rates = {line["step"]: line["learning_rate"] for line in lines if "learning_rate" in line}
    assert rates[3] == 1e-2  # of the parent
    assert rates[9] == pytest.approx(1e-3 * (24 - 8) / 24, rel=0.1)


def test_from_a_kept_step_with_a_new_optimizer(parent: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert fork(parent, tmp_path, "8") == 0
    assert "with a new optimizer" in capfd.readouterr().out
    assert last_weights(tmp_path / "fork") != last_weights(parent)
    steps = [json.loads(line)["step"] for line in (tmp_path / "fork" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 12


@pytest.mark.parametrize(
    ("step", "words", "message"),
    [
        ("7", (), "has not kept 7; kept are step0, step1, step2, step4, step8, step10, step12"),
        ("grok", (), "has not generalized"),
        ("12", (), "max_steps: 12 is not beyond step 12"),
        ("6", ("--model.n_embd=32",), "has another architecture: "),
        ("6", ("--corpus.group=Z13",), "has another vocabulary: "),
    ],
)
def test_a_mistake_is_a_line(
    step: str, words: tuple[str, ...], message: str, parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fork(parent, tmp_path, step, *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_fork_that_was_begun_needs_its_parent_no_more(
    is_finished: bool, parent: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(parent, there := tmp_path / "parent")
    assert fork(there, tmp_path, "last", "--max_steps=14", "--save_steps=2") == 0
    assert "goes on from step 12 of" in capfd.readouterr().out
    run = tmp_path / "fork"
    manifest = Manifest.load(run)
    if is_finished:
        manifest.resumable.clear()  # which the run's owner has deleted
    else:
        manifest.finished = None
    manifest.save(run)
    shutil.rmtree(there)
    for step in ("12", "last"):
        assert fork(there, tmp_path, step, "--max_steps=14", "--save_steps=2") == 0, capfd.readouterr().err
    assert Manifest.load(run).finished["step"] == 14


def test_a_fork_with_adapters_is_the_straight_run(
    bases: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    text = recipe_of(bases, "gpt2", "vocabulary: tokens", "\npeft: {r: 4}\nsave_total_limit: 8\n")
    path = write_recipe(tmp_path, text)
    assert run_here(path, "--max_steps=12", "--save_steps=6", "--output_dir", str(tmp_path / "parent")) == 0
    capfd.readouterr()
    words = [f"--output_dir={tmp_path / 'fork'}", "--max_steps=12", "--save_steps=6", "--fork"]
    assert run_here(path, *words, f"{tmp_path / 'parent'}@6") == 0
    assert "with its optimizer" in capfd.readouterr().out
    ours, theirs = (Manifest.load(tmp_path / name).kept[12].files for name in ("fork", "parent"))
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        assert ours[name]["sha256"] == theirs[name]["sha256"]
    assert "forks from parent at 6" in (tmp_path / "fork" / "figures" / "curve.svg").read_text()
    # Without adapters it goes on with what they made of the weights; with others, or from merged ones, not at all.
    whole = write_recipe(tmp_path, text.replace("peft: {r: 4}", ""), "whole")
    assert (
        run_here(whole, f"--output_dir={tmp_path / 'whole'}", "--max_steps=13", f"--fork={tmp_path / 'parent'}@12") == 0
    )
    assert "with a new optimizer" in capfd.readouterr().out
    for step, word, message in (
        ("6", "--peft.r=8", "peft.r: 8 here, 4 there; a fork has its parent's adapters"),
        ("6", f"--model.model_name_or_path={bases / 'gpt_neox'}", "model.model_name_or_path: "),
        ("1", "--peft.r=4", "step 1 has its adapters merged"),
    ):
        other = [f"--output_dir={tmp_path / 'other'}", word, f"--fork={tmp_path / 'parent'}@{step}"]
        assert run_here(path, *other) == 2
        assert message in (error := capfd.readouterr().err) and error.count("\n") == 1, error
    assert (
        run_here(path, f"--output_dir={tmp_path / 'other'}", f"--fork={tmp_path / 'whole'}@13", "--max_steps=14") == 2
    )
    assert "has no adapters to go on with" in (error := capfd.readouterr().err) and error.count("\n") == 1, error
    assert not (tmp_path / "other").exists()


def test_a_fork_of_two_processes_is_their_straight_run(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, PARENT)
    straight, forked = tmp_path / "parent", tmp_path / "fork"
    for run, words in ((straight, ()), (forked, (f"--fork={straight}@6",))):
        command = ["-m", "accelerate.commands.launch", "--config_file", str(ROOT / "accelerate_configs" / "cpu.yaml")]
        command += ["--main_process_port", str(free_port()), "-m", "pipeline.run", str(path), "--use_cpu", "true"]
        result = run_process(*command, f"--output_dir={run}", *words)
        assert result.returncode == 0, result.stderr
    assert json.loads((forked / "environment.json").read_text())[0]["processes"] == 2
    assert last_weights(forked) == last_weights(straight)
    assert min(Manifest.load(forked).kept) > 6


def test_no_such_run_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fork(tmp_path / "none", tmp_path, "6") == 2 and "is not the folder of a run" in capsys.readouterr().err
    assert run_here(write_recipe(tmp_path), "--fork=6") == 2 and "'6' is not RUN@STEP" in capsys.readouterr().err
