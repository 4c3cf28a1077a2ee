"""What `--check` says of a run beside what the run then turns out to be."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pipeline.config.recipe import read_recipe
from pipeline.run import main
from pipeline.runs.folder import RunFolder
from pipeline.runs.metrics import read_history
from pipeline.sweep.__main__ import main as sweep
from pipeline.training.checking import check
from tests.tiny import RECIPE, SHORT, run_here, tree, write_recipe


def test_a_check_foretells_the_run_and_leaves_nothing(tmp_path: Path) -> None:
    text = SHORT + "circuits: {logit_lens: {steps: log, pairs: 8}}\n"
    recipe = write_recipe(tmp_path, text)
    words = ["--output_dir", str(tmp_path / "run"), "--model.n_embd", "64"]  # beside which small files count little
    found = check(read_recipe(recipe, words))
    assert [path.name for path in tmp_path.iterdir()] == [recipe.name]
    assert run_here(recipe, *words) == 0
    run = RunFolder.read(tmp_path / "run")
    assert found.steps == run.last_step == 8
    assert found.kept == len(run.manifest.kept)
    measured = {line["step"] for line in read_history(run.path) if "eval_id_exact_match" in line}
    assert found.evaluations == len(measured)
    assert found.rows == run.corpus["sizes"]["train"] == 60 and found.steps_an_epoch == 4  # of 121 pairs, by 16
    assert found.tokens == 60 * 4 and found.answers == 60  # a b = c
    weights = load_file(run.path / "steps" / "step8" / "model.safetensors")
    assert found.parameters == sum(weight.numel() for weight in weights.values())
    for entry, told in (
        (run.manifest.kept[8], found.kept_bytes),
        (run.manifest.resumable[8], found.checkpoint_bytes),
    ):
        size = sum(facts["bytes"] for facts in entry.files.values())
        assert 0.7 * size < told < 1.3 * size
    assert found.asked == {"logit_lens": len(list((run.path / "circuits" / "logit_lens").glob("*.parquet")))}
    assert found.analyses["logit_lens"] == "" == found.analyses["fourier"]
    assert "gpt2_bilinear" in found.analyses["eigen"]
    assert found.step_seconds > 0 and found.seconds > 8 * found.step_seconds


def test_a_full_disk_is_foretold(tmp_path: Path) -> None:
    found = check(read_recipe(write_recipe(tmp_path), ["--output_dir", str(tmp_path / "run")]))
    assert found.fits_disk and "TOO MUCH" not in "\n".join(found.lines())
    full = dataclasses.replace(found, free=found.disk - 1)
    assert not full.fits_disk and "THAT IS TOO MUCH" in "\n".join(full.lines())


def test_the_command_says_it_and_what_is_there_already(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, SHORT)
    folder = tmp_path / "run"
    words = [str(recipe), "--output_dir", str(folder)]
    assert run_here(recipe, "--max_steps", "4") == 0
    before = tree(folder)
    capsys.readouterr()
    assert main([*words, "--check"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"tiny in {folder} would go on after step 4\n")
    assert re.search(r"^steps +8 of 16 rows; 4 an epoch, 2 epochs$", said, re.MULTILINE)
    assert re.search(r"^speed +[\d.,]+ (steps/s|s a step) on the CPU with 1 thread, by 3 steps", said, re.MULTILINE)
    assert main([*words, "--check=recipe"]) == 0
    assert capsys.readouterr().out == f"{recipe} can be read: tiny would be in {folder}\n"
    assert tree(folder) == before
    for wrong, hint in (
        (["--check=all"], "--check=recipe to read the recipe alone"),
        (["--check", "--learning_rate", "1"], "holds a run of another recipe"),
        (["--check", "--output_dir", str(tmp_path / "new"), "--global_batch_size", "61"], "more than the 60"),
    ):
        assert main([*words, *wrong]) == 2
        error = capsys.readouterr().err
        assert hint in error and error.count("\n") == 1


def test_a_sweep_checks_each_kind_of_run_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, output = write_recipe(tmp_path, RECIPE), tmp_path / "out"
    words = [str(recipe), "--seed", "0,1", "--model.n_embd", "16,32", "--output_dir", str(output), "--check"]
    assert sweep([*words, "--jobs", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    _, header, *runs, last = lines
    assert header.split()[:2] == ["run", "parameters"]
    cells = {line.split()[0]: line.split()[1:] for line in runs}
    assert list(cells) == [f"seed={seed},n_embd={width}" for seed in (0, 1) for width in (16, 32)]
    assert cells["seed=0,n_embd=16"] == cells["seed=1,n_embd=16"]
    parameters = {width: int(cells[f"seed=0,n_embd={width}"][0].replace(",", "")) for width in (16, 32)}
    assert parameters[16] < parameters[32] < 4 * parameters[16]
    assert last.startswith("in all: ") and last.endswith(", 2 at a time")
    assert not output.exists()
