"""What every architecture promises, proved for each file of the room: add one, and it is covered here."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from pipeline.config.fields import parameters_of
from pipeline.config.registry import load, names
from pipeline.corpora.group import Group
from pipeline.corpora.store import StoredCorpus, build
from pipeline.kernels.forward import fast_logits
from pipeline.models.base import Architecture
from pipeline.runs.manifest import Manifest
from tests.tiny import RECIPE, run_here, write_recipe
from tests.variants import rows


@pytest.fixture(scope="module")
def stored() -> StoredCorpus:
    return build(Group.tiny())


@pytest.fixture(params=names("models"))
def architecture(request: pytest.FixtureRequest, tmp_path: Path) -> Architecture:
    found = load("models", request.param, "model").tiny(tmp_path / "base")
    assert isinstance(found, Architecture) and type(found).__doc__
    assert all(field.metadata.get("help") for field in parameters_of(found))
    return found


def made(architecture: Architecture, stored: StoredCorpus, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return architecture.for_corpus(stored)


def test_a_seed_decides_the_weights(architecture: Architecture, stored: StoredCorpus) -> None:
    one, same, other = (made(architecture, stored, seed).state_dict() for seed in (1, 1, 2))
    assert all(one[key].equal(same[key]) for key in one)
    assert any(not one[key].equal(other[key]) for key in one)


def test_it_has_rows_for_the_words_and_the_positions_it_says(architecture: Architecture, stored: StoredCorpus) -> None:
    model, length = made(architecture, stored), architecture.max_length
    needed = max(architecture.token_ids(stored)) + 1
    size = len(model.get_input_embeddings().weight)
    assert model.config.vocab_size == size >= needed
    assert size == needed or architecture.own_tokenizer() is not None
    assert sum(weight.numel() for weight in model.parameters()) < 1_000_000 and length <= 64  # it is tiny
    assert model(input_ids=torch.zeros(1, length, dtype=torch.long)).logits.shape == (1, length, size)


CODE = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("model", trust_remote_code=True).eval()
tokens, logits = torch.load("expected.pt")
assert model(tokens).logits.equal(logits)
cached = model.generate(tokens, max_new_tokens=4, do_sample=False, use_cache=True)
assert cached.equal(model.generate(tokens, max_new_tokens=4, do_sample=False, use_cache=False))
assert "pipeline" not in sys.modules
"""


def test_others_load_it_from_a_plain_folder_without_this_package(
    architecture: Architecture, stored: StoredCorpus, tmp_path: Path
) -> None:
    model = made(architecture, stored).eval()
    model.save_pretrained(tmp_path / "model")
    tokens = torch.randint(0, model.config.vocab_size, (3, 7))
    torch.save((tokens, model(tokens).logits.detach()), tmp_path / "expected.pt")
    result = subprocess.run([sys.executable, "-I", "-c", CODE], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_tied_weights_stay_tied_through_a_folder(
    architecture: Architecture, stored: StoredCorpus, tmp_path: Path
) -> None:
    keys = {field.name for field in parameters_of(architecture)} - set(architecture.unused)
    ties = "tie_word_embeddings" in keys
    model = made(dataclasses.replace(architecture, **({"tie_word_embeddings": True} if ties else {})), stored)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    tied = [part.get_output_embeddings().weight is part.get_input_embeddings().weight for part in (model, again)]
    assert tied[0] == tied[1] >= ties
    assert sum(map(torch.numel, again.parameters())) == sum(map(torch.numel, model.parameters()))


def test_a_declared_family_is_what_it_computes(architecture: Architecture, stored: StoredCorpus) -> None:
    model = made(architecture, stored)
    declared = architecture.short_forward(model)
    assert declared is None or fast_logits(model, declared, rows())[1] is None


def test_a_run_trains_it_and_its_steps_are_read(
    architecture: Architecture, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    recipe = yaml.safe_load(RECIPE)
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in architecture.as_dict().items()}
    recipe["model"] = {"name": request.node.callspec.params["architecture"], **values}
    recipe["model"].pop("trust_remote_code", None)  # which a file cannot say
    path = write_recipe(tmp_path, yaml.safe_dump(recipe))
    assert run_here(path, "--max_steps", "3") == 0
    kept = Manifest.load(tmp_path / "run").kept
    before, after = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "run" / kept[step].path, trust_remote_code=True).state_dict()
        for step in (0, 3)
    )
    assert before.keys() == after.keys() and any(not before[key].equal(after[key]) for key in before)
