"""Weights that are not finite numbers are named before anything is made of them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.circuits.__main__ import main as circuits
from pipeline.models.loading import load_weights, not_finite
from pipeline.utils.errors import MismatchError
from tests.bases import make_tokenizer, recipe_of
from tests.config.test_remote_code import sealed
from tests.tiny import SHORT, run_here, tree, write_recipe

NAME = "transformer.h.0.mlp.c_fc.weight"


def poisoned(folder: Path, value: float) -> Path:
    """A small GPT-2 with one value that is no finite number."""
    tokenizer = make_tokenizer()
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 32}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **sizes))
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight[3, 5] = value
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_base_is_refused_before_training(value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poisoned(tmp_path / "gpt2", value)
    (tmp_path / "held_out.txt").write_text("a b c\n")
    text = recipe_of(tmp_path, "gpt2", "vocabulary: tokens")
    capsys.readouterr()
    assert run_here(write_recipe(tmp_path, text)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"its weight {NAME} is not finite" in said
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_a_model_and_a_kept_step_are_not_analysed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("clean,corrupted,answer,corrupted_answer\nthe cat,the dog,sees,runs\n")
    words = ["--model", str(poisoned(tmp_path / "model", math.nan)), "--data", str(pairs), "--analysis", "logit_lens"]
    assert circuits(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"its weight {NAME} is not finite" in said

    assert run_here(write_recipe(tmp_path, SHORT)) == 0
    step = tmp_path / "run" / "steps" / "step8"
    weights = load_file(step / "model.safetensors")
    model = GPT2LMHeadModel.from_pretrained(step)
    load_weights(model, step)
    weights[NAME][0, 0] = math.nan
    save_file(weights, step / "model.safetensors")
    assert not_finite(weights) == NAME
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(MismatchError, match=f"step8: {NAME} is not finite"):
        load_weights(model, step)
    assert all(weight.equal(before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("analysis", ["logit_lens", "causal_tracing,attribution", "similarity", "fourier"])
def test_a_kept_step_that_its_manifest_fits_is_one_line(
    analysis: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished.parent / "run", tmp_path / "run"))
    path = run / "steps" / "step8" / "model.safetensors"
    weights = load_file(path)
    weights[NAME][0, 0] = math.nan
    save_file(weights, path)
    sealed(run)
    before = tree(run / "steps")
    capsys.readouterr()
    assert circuits([str(run), "--analysis", analysis, "--steps", "last"]) == 2
    said = capsys.readouterr().err
    assert said == f"{path.parent}: {NAME} is not finite\n"
    assert tree(run / "steps") == before and not list(run.rglob(".draft*"))
