"""What others do with what was pushed, by the real clients: steps, cards, data, code that travels, and other tools."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.utils.files import sha256
from tests.bases import recipe_of
from tests.hub_server import TOKEN, HubServer, hub
from tests.tiny import RECIPE, run_here, run_process, write_recipe


def test_circuits_of_a_revision_are_those_of_the_step(kept_run: Path, server: HubServer, tmp_path: Path) -> None:
    assert hub(server, "push", str(kept_run), "--repo", "user/x", "--steps", "0,16").returncode == 0
    words = ("--split", "id", "--analysis", "attribution", "--revision", "step16", "--pairs", "8")
    found = {}
    for name, model in {"there": "user/x", "here": str(kept_run)}.items():
        command = ("-m", "pipeline.circuits", str(kept_run), "--model", model, *words, "--output", str(tmp_path / name))
        result = run_process(*command, **server.environment, HF_HOME=str(tmp_path / "cache"))
        assert result.returncode == 0, result.stderr
        found[name] = pq.read_table(tmp_path / name / "attribution.parquet")
    assert found["there"]["score"].equals(found["here"]["score"]) and len(found["there"]) > 10


def test_others_load_a_step_and_the_card_tells_of_it(kept_run: Path, server: HubServer, tmp_path: Path) -> None:
    assert (
        hub(server, "push", str(kept_run), "--repo", "user/x", "--steps", "0,16", "--corpus", "user/x-data").returncode
        == 0
    )
    card = server.content("user/x", "main", "README.md").decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers" and front["datasets"] == ["user/x-data"]
    assert "grokking" in front["tags"] and "base_model" not in front
    code = f"""
import sys
import datasets, torch
from huggingface_hub import DatasetCard, ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("user/x", revision="step16")
kept = load_file(r"{kept_run}/steps/step16/model.safetensors")
assert all(model.state_dict()[name].equal(weight) for name, weight in kept.items())
tokenizer = AutoTokenizer.from_pretrained("user/x", revision="step16")
assert tokenizer.decode(tokenizer("3 7 =")["input_ids"]).split() == ["3", "7", "="]
results = ModelCard.load("user/x").data.eval_results
found = {{(result.dataset_split, result.metric_type): result.metric_value for result in results}}
assert found["id", "exact_match"] == {_final(kept_run, "id")}, found
data = datasets.load_dataset("user/x-data")
assert {{split: len(rows) for split, rows in data.items()}} == {{"train": 60, "id": 61}}
assert datasets.load_dataset("user/x-data", "id")["id"][0] == data["id"][0]
assert "pipeline" not in sys.modules
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, **server.environment, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for word in (
        "`fit_step`",
        "`gen_step`",
        "`grok_step`",
        "`step16`",
        "curve.png",
        'revision="step16"',
        "The resolved recipe",
        "Limits",
    ):
        assert word in card
    assert str(kept_run) not in card and str(kept_run) not in server.content("user/x", "main", "recipe.yaml").decode()
    assert "host" not in json.loads(server.content("user/x", "main", "environment.json"))[0]
    step = server.content("user/x", "step16", "README.md").decode()
    assert "The weights after 16 updates" in step
    manifest = json.loads(server.content("user/x", "step16", "manifest.json"))
    assert manifest["files"]["model.safetensors"]["sha256"] == sha256(
        kept_run / "steps" / "step16" / "model.safetensors"
    )


def _final(run: Path, split: str) -> float:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return next(line[f"final_{split}_exact_match"] for line in lines if f"final_{split}_exact_match" in line)


def test_a_recipe_pushes_at_its_end_and_again_what_is_missing(server: HubServer, tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path))
    words = ("-m", "pipeline.run", recipe, "--output_dir", str(tmp_path / "run"), "--max_steps", "4")
    words += ("--push_to_hub", "true", "--hub_model_id", "user/auto")
    environment = {**server.environment, "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN}
    server.faults.statuses = [403]
    failed = run_process(*words, **environment)
    assert (
        failed.returncode == 1 and "the run is finished, and the same command pushes what is missing" in failed.stderr
    )
    done = run_process(*words, **environment)
    assert done.returncode == 0 and "user/auto has it all" in done.stdout, done.stderr
    assert server.repos["user/auto"].branches.keys() == {"main", "step0", "step1", "step2", "step4"}


def test_a_variant_loads_with_the_code_that_travels_with_it(server: HubServer, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace("name: gpt2,", "name: gpt2_looped,"))
    assert run_here(recipe, "--max_steps", "2", "--callbacks.console.style", "off") == 0
    assert hub(server, "push", str(tmp_path / "run"), "--repo", "user/looped").returncode == 0
    assert "trust_remote_code=True" in server.content("user/looped", "main", "README.md").decode()
    code = """
import sys
from transformers import AutoModelForCausalLM, pipeline
model = AutoModelForCausalLM.from_pretrained("user/looped", revision="step1", trust_remote_code=True)
assert type(model).__name__ == "LoopedGPT2LMHeadModel" and model.config.n_loops == 2
write = pipeline("text-generation", model="user/looped", trust_remote_code=True)
written = write("3 7 =", max_new_tokens=1, do_sample=False)[0]["generated_text"]
assert written.startswith("3 7 =") and len(written) > 5, written
assert not any(name.split(".")[0] == "pipeline" for name in sys.modules)
"""
    environment = {**os.environ, **server.environment, "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    # This package continues it with its own class, and reads nothing of the code that lies there.
    code = """
import sys
from pipeline.models.pretrained import Pretrained
model = Pretrained(model_name_or_path="user/looped", revision="step1").build(24)
assert type(model).__module__ == "pipeline.models.modeling_gpt2_looped", type(model)
assert not any(name.startswith("transformers_modules.") for name in sys.modules)
"""
    result = run_process("-c", code, cwd=tmp_path, **server.environment, HF_HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr


def test_transformer_lens_boots_a_revision(kept_run: Path, server: HubServer, tmp_path: Path) -> None:
    pytest.importorskip("transformer_lens", reason="the extra lens is not installed")
    assert hub(server, "push", str(kept_run), "--repo", "user/x", "--steps", "16").returncode == 0
    code = f"""
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM
bridge = TransformerBridge.boot_transformers("user/x", revision="step16", device="cpu")
logits, cache = bridge.run_with_cache(bridge.to_tokens("3 7 =", prepend_bos=False))
tokens = torch.tensor([[3, 7, 11]])
kept = AutoModelForCausalLM.from_pretrained(r"{kept_run}/steps/step16")
assert torch.allclose(logits, kept(tokens).logits, atol=1e-5)
"""
    environment = {**server.environment, "HF_HOME": str(tmp_path)}
    result = run_process("-c", code, cwd=tmp_path, **environment)
    assert result.returncode == 0, result.stderr


def test_a_continued_model_names_its_base_and_is_asked_in_text(bases: Path, server: HubServer, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, recipe_of(bases, "gpt2").replace(str(bases / "gpt2"), "org/base"))
    environment = {**server.environment, "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN}
    code = f"""
from huggingface_hub import HfApi
HfApi().create_repo("org/base")
HfApi().upload_folder(repo_id="org/base", folder_path=r"{bases / "gpt2"}")
"""
    assert run_process("-c", code, **environment).returncode == 0
    words = ("--output_dir", str(tmp_path / "run"), "--max_steps", "2", "--push_to_hub", "true")
    done = run_process("-m", "pipeline.run", str(recipe), *words, "--hub_model_id", "user/continued", **environment)
    assert done.returncode == 0, done.stderr
    card = server.content("user/continued", "main", "README.md").decode()
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "org/base"
    prompt = card.partition("prompt = tokenizer(")[2].partition(", return_tensors")[0]
    assert re.fullmatch(r'"the r_\d+ of (the r_\d+ of )?e_\d+ is"', prompt), prompt
    code = f"""
from transformers import pipeline
write = pipeline("text-generation", model="user/continued", revision="step1")
written = write({prompt}, max_new_tokens=2, do_sample=False)[0]["generated_text"]
assert written.startswith({prompt}) and len(written) > len({prompt}), written
"""
    asked = run_process("-c", code, cwd=tmp_path, **environment)
    assert asked.returncode == 0, asked.stderr
