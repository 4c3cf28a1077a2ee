"""A run folder may come from anywhere: what is loaded from it is data."""

from __future__ import annotations

import ast
import dataclasses
import os
import pickle
from pathlib import Path

import pytest
import torch

from pipeline.checkpoints import facts_of, files_of
from pipeline.engines import prepare_engine
from pipeline.manifest import Manifest
from pipeline.upkeep import main
from tests.tiny import ROOT, run_here, write_recipe


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_code_in_a_checkpoint_is_not_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, run, proof = write_recipe(tmp_path), tmp_path / "run", tmp_path / "proof"
    assert run_here(recipe, "--max_steps", "6") == 0
    torch.save({"state": Evil(proof)}, run / "checkpoint-6" / name)
    manifest = Manifest.load(run)
    entry = manifest.resumable[6]
    facts = facts_of(run / entry.path, files_of(run / entry.path))
    manifest.resumable[6] = dataclasses.replace(entry, files=facts).after(entry.parent)  # all in order, it says
    manifest.save(run)
    capsys.readouterr()
    status = run_here(recipe)
    assert not proof.exists()
    if name == "training_args.bin":  # which nothing reads
        assert status == 0
    else:
        assert status == 2
        assert "checkpoint-6 holds code in the place of weights, which is not run" in capsys.readouterr().err


def test_step_0_is_what_the_recipe_builds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path)
    for seed in ("1", "2"):
        assert run_here(recipe, "--output_dir", str(tmp_path / seed), "--seed", seed, "--max_steps", "2") == 0
        assert main(["verify", str(tmp_path / seed), "--rebuild"]) == 0
    capsys.readouterr()
    # All of another run, with a manifest that fits it, under this one's recipe.
    (tmp_path / "1" / "recipe.yaml").write_bytes((tmp_path / "2" / "recipe.yaml").read_bytes())
    assert main(["verify", str(tmp_path / "1")]) == 0
    assert main(["verify", str(tmp_path / "1"), "--rebuild"]) == 1
    assert "steps/step0: is not what recipe.yaml builds" in capsys.readouterr().out


def test_a_library_that_asks_for_pickled_code_does_not_get_it(tmp_path: Path) -> None:
    torch.save(Evil(tmp_path / "proof"), tmp_path / "shard.pt")
    prepare_engine({})
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "shard.pt", weights_only=False)  # as DeepSpeed does
    assert not (tmp_path / "proof").exists()


def test_no_code_here_loads_pickles_or_trusts_remote_code() -> None:
    for path in (ROOT / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("pickle.load", "pickle.loads", "joblib.load", "yaml.load", "exec"), path
                words = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert words.get("trust_remote_code", "False") == "False", path
                assert called != "torch.load" or words.get("weights_only") == "True", path
