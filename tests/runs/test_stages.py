"""A recipe that goes on from an earlier one trains that first; what is wrong with any of them is a line before that."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline.config.recipe import read_recipe
from pipeline.runs import stages
from pipeline.runs.manifest import Manifest
from pipeline.utils.errors import ParameterError, RecipeError
from tests.tiny import ROOT, SHORT, run_here, tree, write_recipe


def stage(folder: Path, name: str, before: str | None = None, step: str = "last", more: str = "") -> Path:
    """A recipe whose runs lie beside it; of the first stage, a new model."""
    text = SHORT + f"output_dir: {folder / f'run-{name}'}\n{more}"
    if before:
        head, _, rest = text.partition("model: ")
        text = f"{head}model: {{recipe: {before}, step: {step}, vocabulary: tokens}}\n{rest.partition(chr(10))[2]}"
    return write_recipe(folder, text, name)


def here(path: Path, *overrides: str) -> int:
    from pipeline.run import main

    return main([str(path), *overrides])


def test_one_command_trains_three_stages(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stage(tmp_path, "first")
    stage(tmp_path, "second", "first.yaml", "4")
    third = stage(tmp_path, "third", "second.yaml")
    assert here(third) == 0
    for name, before, step in (("third", "second", 8), ("second", "first", 4)):
        model = yaml.safe_load((tmp_path / f"run-{name}" / "recipe.yaml").read_text())["model"]
        kept = json.loads((tmp_path / f"run-{before}" / "manifest.json").read_text())["kept"][str(step)]
        assert model["model_name_or_path"] == str(tmp_path / f"run-{before}")
        assert model["revision"] == f"step{step}"
        assert model["weights"] == kept["files"]["model.safetensors"]["sha256"]
    # Its first weights are those of the step that it goes on from.
    begin = Manifest.load(tmp_path / "run-third").kept[0].files["model.safetensors"]["sha256"]
    assert begin == Manifest.load(tmp_path / "run-second").kept[8].files["model.safetensors"]["sha256"]
    capfd.readouterr()

    # Again, there is nothing to do, even without the stages before.
    files = tree(tmp_path)
    assert here(third) == 0 and tree(tmp_path) == files
    os.rename(tmp_path / "run-second", tmp_path / "gone")
    assert here(third) == 0 and "is finished" in capfd.readouterr().out
    assert not (tmp_path / "run-second").exists()

    # A stage that has become another one is noticed.
    os.rename(tmp_path / "gone", tmp_path / "run-second")
    stage(tmp_path, "third", "second.yaml", "4")
    assert here(third) == 2
    assert "step" in (line := capfd.readouterr().err) and line.count("\n") == 1, line
    stage(tmp_path, "third", "second.yaml")
    manifest = Manifest.load(tmp_path / "run-second")
    changed = {**manifest.kept[8].files, "model.safetensors": manifest.kept[4].files["model.safetensors"]}
    manifest.kept[8] = dataclasses.replace(manifest.kept[8], files=changed)
    manifest.save(tmp_path / "run-second")
    assert here(third) == 2
    assert "model.weights: " in (line := capfd.readouterr().err) and line.count("\n") == 1, line


def test_keys_of_a_stage_reach_it_and_no_other(tmp_path: Path) -> None:
    stage(tmp_path, "first")
    stage(tmp_path, "second", "first.yaml", "4")
    words = ["--seed", "1", "--model.recipe.seed=2", "--model.recipe.model.recipe.seed", "3"]
    words += ["--model.recipe.corpus.train-fraction", "0.4", "--model.recipe.output-dir", str(tmp_path / "other")]
    recipe = read_recipe(stage(tmp_path, "third", "second.yaml"), words)
    second, first = stages.earlier(recipe)
    assert [part.training["seed"] for part in (recipe, second, first)] == [1, 2, 3]
    assert [part.corpus.train_fraction for part in (recipe, second, first)] == [0.5, 0.4, 0.5]
    assert (second.output_dir, first.output_dir) == (tmp_path / "other", tmp_path / "run-first")
    # What starts a stage by hand gives the same stage.
    by_hand = read_recipe(second.source, second.words)
    assert by_hand.resolved() == second.resolved()
    assert [part.resolved() for part in stages.earlier(by_hand)] == [first.resolved()]


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("first", ["--model.recipe.seed", "1"], "command line: model.recipe.seed: {first} has no earlier stage"),
        (
            "second",
            ["--model.recipe.model.recipe.seed=1"],
            "command line: model.recipe.model.recipe.seed: {first} has no earlier stage",
        ),
        (
            "second",
            ["--model.recipe.lerning_rate", "1"],
            "command line: model.recipe.lerning_rate: unknown key; did you mean learning_rate?",
        ),
        (
            "second",
            ["--model.recipe.corpus.group", "Z"],
            "command line: model.recipe.corpus.group: 'Z' is",
        ),
        (
            "second",
            ["--model.recipe.output_dir", "{taken}"],
            "model.recipe.output_dir: {taken} exists and is not a run folder; choose another with "
            "--model.recipe.output_dir",
        ),
    ],
)
def test_an_override_that_goes_nowhere_is_a_line(
    name: str, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter").touch()
    paths = {"first": stage(tmp_path, "first"), "second": stage(tmp_path, "second", "first.yaml")}
    there = {**paths, "taken": tmp_path / "taken"}
    assert here(paths[name], *(word.format(**there) for word in words)) == 2
    assert capsys.readouterr().err.rstrip("\n").startswith(message.format(**there))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {"before": "frist.yaml"}, "model.recipe: frist.yaml is no file beside"),
        ({"before": "second.yaml"}, {}, "goes round in a circle: second.yaml -> first.yaml -> second.yaml"),
        ({}, {"before": "second.yaml"}, "goes round in a circle: second.yaml -> second.yaml"),
        ({}, {"step": "9"}, "model.step: 9 is no step that"),
        ({}, {"step": "3"}, "its checkpoints do not"),
        ({}, {"step": "groked"}, "model.step: 'groked' is not grok, fit, last or a number"),
        ({"more": "lerning_rate: 1\n"}, {}, "lerning_rate"),
        ({"more": "fp16: true\nuse_cpu: true\n"}, {}, "fp16: does nothing on a CPU"),
    ],
)
def test_a_mistake_is_a_line_before_anything_is_trained(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    first: dict[str, str],
    second: dict[str, str],
    message: str,
) -> None:
    stage(tmp_path, "first", **first)
    path = stage(tmp_path, "second", **{"before": "first.yaml", **second})
    assert here(path) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error
    assert not list(tmp_path.glob("run-*"))


def test_two_stages_do_not_share_a_folder(tmp_path: Path) -> None:
    stage(tmp_path, "first")
    path = stage(tmp_path, "second", "first.yaml")
    recipe = read_recipe(path, [f"--output_dir={tmp_path / 'run-first'}"])
    with pytest.raises(RecipeError, match="is that of the stage after it as well"):
        stages.earlier(recipe)


def under_launcher(monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    values = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


def test_a_launcher_of_several_processes_starts_no_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stage(tmp_path, "first")
    recipe = read_recipe(stage(tmp_path, "second", "first.yaml"), ["--model.recipe.seed", "3"])
    under_launcher(monkeypatch, 2)
    with pytest.raises(RecipeError, match=f"run first: python -m pipeline.run {first} --seed=3$"):
        stages.train_earlier(recipe)


def test_a_process_that_was_launched_alone_waits_for_a_stage_that_another_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first = stage(tmp_path, "first")
    recipe = read_recipe(stage(tmp_path, "second", "first.yaml"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    other = subprocess.Popen([sys.executable, "-m", "pipeline.run", str(first)], env=environment)
    under_launcher(monkeypatch, 1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run-first" / "lock.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stages.train_earlier(recipe) == 0
        assert other.wait(30) == 0
    finally:
        other.kill()
    said = capfd.readouterr().out
    assert f"run-first is in use by pid {other.pid} on" in said and ", which it waits for" in said
    assert f"{tmp_path / 'run-first'} is finished" in said
    assert len(json.loads((tmp_path / "run-first" / "environment.json").read_text())) == 1
    assert Manifest.load(tmp_path / "run-first").finished


def test_a_step_that_was_not_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = stage(tmp_path, "first")
    assert run_here(first, f"--output_dir={tmp_path / 'run-first'}") == 0
    manifest = Manifest.load(tmp_path / "run-first")
    capsys.readouterr()
    assert here(stage(tmp_path, "second", "first.yaml", "grok")) == 2
    error = capsys.readouterr().err
    assert "model.step: " in error and "has not generalized" in error and error.count("\n") == 1
    ended = {**(manifest.finished or {}), "fit_step": 3, "gen_step": 5}
    manifest.finished = ended
    found = {name: stages.choose_kept(tmp_path, manifest, name, "k")[0] for name in ("fit", "grok", "last", "4")}
    assert found == {"fit": 4, "grok": 8, "last": 8, "4": 4}
    with pytest.raises(ParameterError, match="has not kept 7; kept are step0, step1, step2, step4, step8"):
        stages.choose_kept(tmp_path, manifest, "7", "k")


def test_a_signal_stops_both_and_the_same_command_goes_on(tmp_path: Path) -> None:
    stage(tmp_path, "first", more="lr_scheduler_type: constant\n")
    text = (tmp_path / "first.yaml").read_text().replace("max_steps: 8", "max_steps: 100000")
    (tmp_path / "first.yaml").write_text(text)
    second = stage(tmp_path, "second", "first.yaml")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "pipeline.run", str(second)], env=environment)
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "run-first").glob("checkpoint-*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    finally:
        process.kill()
    manifest = Manifest.load(tmp_path / "run-first")
    assert manifest.resumable and not manifest.finished and not (tmp_path / "run-second").exists()
    (tmp_path / "first.yaml").write_text(text.replace("max_steps: 100000", f"max_steps: {max(manifest.resumable) + 4}"))
    assert here(second) == 0
    assert len(json.loads((tmp_path / "run-first" / "environment.json").read_text())) == 2
