"""What every callback promises, proved for each file of the room: add one, and it is covered here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from pipeline.callbacks._states import TENSORS, VALUES
from pipeline.callbacks.base import Callback
from pipeline.config.fields import parameters_of
from pipeline.config.identity import intervenes
from pipeline.config.recipe import read_recipe
from pipeline.config.registry import load, names
from pipeline.training.session import prepare
from tests.tiny import RECIPE, ROOT, run_here, write_recipe


@pytest.mark.parametrize("name", names("callbacks"))
def test_it_joins_a_trainer_as_a_trainer_callback(name: str, tmp_path: Path) -> None:
    trainer = prepare(read_recipe(write_recipe(tmp_path), ["--output_dir", str(tmp_path / "run")]))
    kind = load("callbacks", name, "callbacks")
    callback = kind.tiny(tmp_path)
    assert isinstance(callback, Callback) and kind.__doc__
    assert all(field.metadata.get("help") for field in parameters_of(kind))
    callback.attach(trainer)
    joined = trainer.callback_handler.callbacks[-1]
    assert isinstance(joined, TrainerCallback) and isinstance(joined, kind)
    assert joined.trainer is trainer


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights after three steps of a run that names no callback."""
    folder = tmp_path_factory.mktemp("without")
    recipe = write_recipe(folder, RECIPE.replace("callbacks: {console: {style: plain, seconds: 0}}\n", ""))
    assert run_here(recipe, "--max_steps", "3") == 0
    return load_file(folder / "run" / "steps" / "step3" / "model.safetensors")


@pytest.mark.parametrize("name", names("callbacks"))
def test_a_run_with_it_works(name: str, tmp_path: Path, without: dict[str, torch.Tensor]) -> None:
    """And trains what it would train without it, unless the callback says that it intervenes."""
    chosen = json.dumps({name: load("callbacks", name, "callbacks").tiny(tmp_path).as_dict()})
    recipe = write_recipe(tmp_path, RECIPE.replace("{console: {style: plain, seconds: 0}}", chosen))
    assert run_here(recipe, "--max_steps", "3") == 0
    weights = load_file(tmp_path / "run" / "steps" / "step3" / "model.safetensors")
    assert intervenes(name) or all(weight.equal(without[key]) for key, weight in weights.items())


def acts(name: str) -> bool:
    """Whether a callback changes the run, or remembers something from step to step."""
    kind: type[Callback] = load("callbacks", name, "callbacks")
    return kind.intervenes or kind.state_dict is not Callback.state_dict


@pytest.mark.parametrize("name", filter(acts, names("callbacks")))
def test_a_run_with_it_goes_on_as_if_it_had_not_been_stopped(name: str, tmp_path: Path) -> None:
    """Its weights are the straight run's, and so is what the callback remembers."""
    chosen = json.dumps({name: load("callbacks", name, "callbacks").tiny(tmp_path).as_dict()})
    recipe = write_recipe(tmp_path, RECIPE.replace("{console: {style: plain, seconds: 0}}", chosen))
    for run, stops in (("straight", ("6",)), ("stopped", ("3", "6"))):
        for step in stops:
            words = ("--max_steps", step, "--output_dir", str(tmp_path / run), "--circuits", "{}", "--eval_steps", "3")
            assert run_here(recipe, *words) == 0
    straight, stopped = (tmp_path / run / "checkpoint-6" for run in ("straight", "stopped"))
    one, other = (load_file(folder / "model.safetensors") for folder in (straight, stopped))
    assert one.keys() == other.keys() and all(one[key].equal(weight) for key, weight in other.items())
    for file in (TENSORS, VALUES):
        assert [f.read_bytes() for f in straight.glob(file)] == [f.read_bytes() for f in stopped.glob(file)]


def test_naming_a_callback_needs_no_torch() -> None:
    code = "import sys; from pipeline.config.registry import load, names\n"
    code += "[load('callbacks', n, '') for n in names('callbacks')]"
    code += "; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
