"""Runs of a sweep that go on from earlier stages: each is trained once, for all runs of the same keys of it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml

from pipeline.runs import stages
from pipeline.runs.manifest import Manifest
from pipeline.sweep.__main__ import main
from pipeline.sweep.grid import grid
from pipeline.utils.errors import RecipeError
from tests.runs.test_stages import stage
from tests.slurm_cluster import Cluster


def test_runs_of_the_same_stage_keys_share_a_stage(tmp_path: Path) -> None:
    stage(tmp_path, "first")
    path, out = stage(tmp_path, "second", "first.yaml", "4"), tmp_path / "out"
    words = ["--seed", "0,1", "--model.recipe.seed", "2,3"]
    points = grid(str(path), words, out)
    assert [point.name for point in points] == [f"seed={own},recipe.seed={its}" for own in (0, 1) for its in (2, 3)]
    (round_,) = stages.rounds(point.recipe for point in points)
    assert [(part.output_dir, part.training["seed"]) for part in round_] == [
        (out / "stage=-1,seed=2", 2),
        (out / "stage=-1,seed=3", 3),
    ]
    # Without keys of its own a stage is the one that a run alone would train.
    (round_,) = stages.rounds(point.recipe for point in grid(str(path), ["--seed", "0,1"], out))
    assert [part.output_dir for part in round_] == [tmp_path / "run-first"]
    with pytest.raises(RecipeError, match=r"would hold two stages \(seed: 2 there, 3 here\); give each a folder"):
        points = grid(str(path), [*words, f"--model.recipe.output_dir={tmp_path / 'one'}"], out)
        stages.rounds(point.recipe for point in points)


def test_a_stage_of_a_stage_has_a_round_of_its_own(tmp_path: Path) -> None:
    stage(tmp_path, "first")
    stage(tmp_path, "second", "first.yaml", "4")
    path = stage(tmp_path, "third", "second.yaml", "4")
    points = grid(str(path), ["--model.recipe.model.recipe.seed", "2,3"], tmp_path / "out")
    names = [[part.output_dir.name for part in round_] for round_ in stages.rounds(point.recipe for point in points)]
    assert names == [["stage=-2,seed=2", "stage=-2,seed=3"], ["stage=-1,seed=2", "stage=-1,seed=3"]]


def test_a_sweep_trains_a_stage_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage(tmp_path, "first")
    path, out = stage(tmp_path, "second", "first.yaml", "4"), tmp_path / "out"
    words = [str(path), "--seed", "0,1", "--model.recipe.seed", "3", "--output_dir", str(out), "--jobs", "2"]
    assert main(words) == 0
    first = out / "stage=-1"
    assert len(json.loads((first / "environment.json").read_text())) == 1
    assert not (tmp_path / "run-first").exists()
    weights = Manifest.load(first).kept[4].weights_hash
    for seed in (0, 1):
        made = yaml.safe_load((out / f"seed={seed}" / "recipe.yaml").read_text())
        assert (made["seed"], made["model"]["weights"]) == (seed, weights)
    said = capsys.readouterr().out
    assert "[1/1] stage=-1: " in said and "[2/2] seed=" in said


def test_what_goes_on_from_a_stage_that_failed_is_not_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage(tmp_path, "first")
    path, out = stage(tmp_path, "second", "first.yaml", "last"), tmp_path / "out"
    words = ["--seed", "0,1", "--model.recipe.learning_rate", "1e30", "--output_dir", str(out)]
    assert main([str(path), *words]) == 1
    said = capsys.readouterr()
    assert "stage=-1: FAILED" in said.out and "loss is not finite" in said.out
    assert said.err.count(f"was not begun: {tmp_path / 'first.yaml'} has failed, in {out / 'stage=-1'}") == 2
    assert not (out / "seed=0").exists()


@pytest.mark.slurm
def test_two_slurm_arrays_that_need_one_stage_train_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage(tmp_path, "first")
    path = stage(tmp_path, "second", "first.yaml", "4")
    outputs = {tmp_path / "a": "0,1", tmp_path / "b": "2"}
    cluster = Cluster()
    cluster.install()
    cluster.start()
    try:
        monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        for output, seeds in outputs.items():
            assert main([str(path), "--seed", seeds, "--output_dir", str(output), "--slurm", "--ntasks=1"]) == 0
        deadline = time.monotonic() + 900
        while not all((output / "report.html").exists() for output in outputs):
            logs = [file.read_text() for output in outputs for file in output.glob("slurm-*")]
            assert time.monotonic() < deadline, logs
            time.sleep(1)
    finally:
        cluster.stop()
    assert len(json.loads((tmp_path / "run-first" / "environment.json").read_text())) == 1
    weights = Manifest.load(tmp_path / "run-first").kept[4].weights_hash
    for output, seeds in outputs.items():
        for seed in seeds.split(","):
            run = output / f"seed={seed}"
            assert Manifest.load(run).finished
            assert yaml.safe_load((run / "recipe.yaml").read_text())["model"]["weights"] == weights
