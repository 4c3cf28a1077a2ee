"""A run folder may come from anywhere: what is loaded from it is data."""

from __future__ import annotations

import ast
import dataclasses
import os
import pickle
from pathlib import Path

import pytest
import torch

from pipeline.runs.__main__ import main
from pipeline.runs.checkpoints import facts_of, files_of
from pipeline.runs.manifest import Manifest
from pipeline.training.sharding import prepare_engine
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


# Whose code runs is decided in these places alone, all of them by the command line.
TRUSTING = {
    "config/trust.py", "config/recipe.py", "circuits/_outside.py", "runs/__main__.py", "models/loading.py",
    "data/words.py", "models/pretrained.py", "models/gpt2_factorized.py", "evaluate/subject.py",
    "evaluate/__main__.py", "ask/__main__.py",
    "api/run.py",  # whose caller says it
    "hub/space.py", "hub/live_app.py",  # in a Space, whose owner has pushed the weights and their code
}  # fmt: skip
# from_pretrained gets one of these, and never what a recipe or a folder says.
GIVEN = {"False", "trusted", "chosen.trust_remote_code", "self.trust_remote_code", "self._runs_code"}
# Of classes that are here already: they read numbers, and look for no code.
KNOWN = {"GenerationConfig.from_pretrained", "type(model.config).from_pretrained"}
RUNNING = {"eval", "exec", "compile", "__import__"}  # builtins that run text
UNPICKLING = {"pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "dill.load", "dill.loads", "numpy.load"}
LOADING = {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "runpy.run_path", "np.load"}


def test_no_code_here_loads_pickles_or_trusts_remote_code() -> None:
    home = ROOT / "pipeline"
    for path in home.rglob("*.py"):
        name = path.relative_to(home).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            words = {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()
            words |= {node.arg} if isinstance(node, (ast.keyword, ast.arg)) else set()
            if "trust_remote_code" in words:  # as a keyword, a key of a dictionary, or a name for getattr
                assert name in TRUSTING, name
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in RUNNING | UNPICKLING | LOADING, (name, called)
            assert called != "importlib.import_module" or name in ("config/registry.py", "config/trust.py"), name
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in KNOWN:
                continue
            if called.endswith("from_pretrained"):  # which asks at the terminal where nothing is said
                assert given.get("trust_remote_code") in GIVEN, (name, ast.unparse(node))
            elif "trust_remote_code" in given:
                assert given["trust_remote_code"] in GIVEN, (name, ast.unparse(node))
            assert called != "torch.load" or given.get("weights_only") == "True", name
