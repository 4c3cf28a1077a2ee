"""Pushing, verifying and pulling runs, with the real clients against a server on loopback that can fail on request."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.files import sha256
from pipeline.manifest import Manifest
from pipeline.results import Results
from pipeline.upkeep import verify
from tests.bases import make_base
from tests.hub_server import HubServer, Repo, hub_server
from tests.tiny import COMPOSITION, RECIPE, ROOT, run_here, run_process, write_recipe

CLOSED = "http://127.0.0.1:9"  # where nobody answers
TOKEN = "hf_notatokenthatanyonehas0123456789"
# Weights of 16 kB and one step after the other: 30 kept steps and little else.
MANY = RECIPE.replace("every: [[10, null]]", "every: [[1, null]]").replace("max_steps: 24", "max_steps: 29")
MANY = MANY.replace("eval_steps: 6", "eval_steps: 29").replace("save_steps: 6", "save_steps: 29")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with 30 kept steps, 0 to 29."""
    folder = tmp_path_factory.mktemp("pushed")
    assert run_here(write_recipe(folder, MANY), "--callbacks.progress.style", "off") == 0
    assert len(Manifest.load(folder / "run").kept) == 30
    return folder / "run"


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub_server() as server:
        yield server


def hub(server: HubServer, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    home = {"HF_HOME": str(Path(environment.pop("home", os.environ["GROKLAB_CACHE"])) / "hf")}
    return run_process("-m", "pipeline.hub", *words, **{**server.environment, "HF_TOKEN": TOKEN, **home, **environment})


def weights(run: Path, step: int) -> bytes:
    return (run / "steps" / f"step{step}" / "model.safetensors").read_bytes()


def test_a_push_is_whole_repeatable_and_comes_back(run: Path, server: HubServer, tmp_path: Path) -> None:
    words = ("push", str(run), "--repo", "user/tiny", "--steps", "0,8,29", "--corpus", "user/tiny-data", "--private")
    first = hub(server, *words)
    assert first.returncode == 0, first.stderr
    assert "[1/4] step0: sent" in first.stdout and "[4/4] main: sent" in first.stdout
    repo = server.repos["user/tiny"]
    assert repo.private and server.repos["user/tiny-data"].private
    assert repo.branches.keys() == {"main", "step0", "step8", "step29"}
    for step in (0, 8, 29):
        assert server.content("user/tiny", f"step{step}", "model.safetensors") == weights(run, step)
        # One commit on top of the empty first one, so that no other step's weights ever stood there.
        parent, tree = repo.commits[repo.branches[f"step{step}"]]
        assert parent is not None and repo.commits[parent][1].keys() == {".gitattributes"}
        assert tree.keys() >= {"README.md", "manifest.json", "recipe.yaml", "tokenizer.json", "config.json"}
    assert server.content("user/tiny", "main", "model.safetensors") == weights(run, 29)

    commits, stored = server.commits_made, server.stored.copy()
    again = hub(server, *words)
    assert again.returncode == 0 and "main: there already" in again.stdout
    assert (server.commits_made, server.stored) == (commits, stored) and set(stored.values()) == {1}

    verified = hub(server, "verify", str(run), "--repo", "user/tiny", "--steps", "0,8,29")
    assert verified.returncode == 0 and "4 of 4 revisions" in verified.stdout, verified.stdout + verified.stderr
    missing = hub(server, "verify", str(run), "--repo", "user/tiny", "--steps", "1", "--quick")
    assert missing.returncode == 1 and "step1: there is no such revision" in missing.stdout

    pulled = hub(server, "pull", "user/tiny", "--output", str(tmp_path / "pulled"), "--steps", "0,8")
    assert pulled.returncode == 0, pulled.stderr
    assert (tmp_path / "pulled" / "steps" / "step8" / "model.safetensors").read_bytes() == weights(run, 8)
    assert all(damage is None for _, damage in verify(tmp_path / "pulled"))
    assert Results.read(tmp_path / "pulled").splits == ["train", "id"]
    assert (tmp_path / "pulled" / "tokenizer" / "tokenizer.json").is_file()
    assert (
        "step8: here already"
        in hub(server, "pull", "user/tiny", "--output", str(tmp_path / "pulled"), "--steps", "8").stdout
    )


@pytest.mark.parametrize("kept", [6, pytest.param(30, marks=pytest.mark.slow)])  # the client waits out each fault
def test_a_push_that_is_dropped_and_killed_ends_whole_and_sends_nothing_twice(
    kept: int, run: Path, server: HubServer, tmp_path: Path
) -> None:
    steps = ",".join(map(str, range(kept)))
    server.faults.drop = 0.2
    environment = {**os.environ, **server.environment, "HF_HOME": str(tmp_path), "HF_TOKEN": TOKEN}
    command = [sys.executable, "-m", "pipeline.hub", "push", str(run), "--repo", "user/killed", "--quick"]
    command += ["--steps", steps]
    for revisions in (kept // 4 + 1, kept // 2 + 1):  # kills when so many steps are there
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        while len(server.repos["user/killed"].branches if server.repos else ()) < revisions and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, "the push ended before it was killed"
        process.kill()
        process.wait()
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "there already" in done.stdout
    repo = server.repos["user/killed"]
    assert repo.branches.keys() == {"main", *(f"step{step}" for step in range(kept))}
    for step in range(kept):
        assert server.content("user/killed", f"step{step}", "model.safetensors") == weights(run, step)
    assert set(server.stored.values()) == {1}
    server.faults.drop = 0.0
    verified = hub(server, "verify", str(run), "--repo", "user/killed", "--steps", steps)
    assert verified.returncode == 0 and f"{kept + 1} of {kept + 1} revisions" in verified.stdout, verified.stdout


def test_a_tampered_file_is_found(run: Path, server: HubServer) -> None:
    assert hub(server, "push", str(run), "--repo", "user/t", "--steps", "0,4").returncode == 0
    blob = server.repos["user/t"].tree("step4")["model.safetensors"]
    assert blob.lfs
    server.objects[blob.lfs] = server.objects[blob.lfs][:-1] + b"?"  # the Hub still lists the true sha256
    found = hub(server, "verify", str(run), "--repo", "user/t", "--steps", "0,4")
    assert found.returncode == 1
    assert "step0: ok" in found.stdout and "main: ok" in found.stdout
    assert "step4: model.safetensors comes back corrupted: its sha256 is not that of the file here" in found.stdout
    pulled = hub(server, "pull", "user/t", "--output", str(run.parent / "tampered"), "--steps", "4")
    assert pulled.returncode == 2 and "step4: model.safetensors has another sha256" in pulled.stderr
    assert not (run.parent / "tampered" / "steps" / "step4").exists()


def test_a_corrupted_upload_ends_the_push(run: Path, server: HubServer) -> None:
    server.faults.corrupt = 1
    result = hub(server, "push", str(run), "--repo", "user/rot", "--steps", "0")
    assert result.returncode == 2
    assert result.stderr.startswith("user/rot, step0: model.safetensors comes back corrupted")
    assert server.repos["user/rot"].branches.keys() == {"main", "step0"}


def test_the_hub_s_refusals_are_one_line_and_hold_no_token(run: Path, server: HubServer) -> None:
    server.faults.statuses = [429, 500, 500]
    passing = hub(server, "push", str(run), "--repo", "user/slow", "--steps", "0")
    assert passing.returncode == 0, passing.stderr
    server.faults.statuses = [403] * 3
    refused = hub(server, "push", str(run), "--repo", "user/forbidden", "--steps", "0")
    assert refused.returncode == 2
    assert refused.stderr == (
        "user/forbidden: the Hub forbids it (403); the token needs the right to write there, see hf auth login\n"
    )
    absent = hub(server, "pull", "user/absent", "--output", str(run.parent / "absent"))
    assert (absent.returncode, absent.stderr) == (2, "user/absent: there is no such repository\n")
    assert TOKEN in server.tokens
    for text in (passing.stdout, passing.stderr, refused.stderr, absent.stderr):
        assert TOKEN not in text
    assert not any(TOKEN.encode() in path.read_bytes() for path in run.rglob("*") if path.is_file())


def test_without_a_network_it_says_so(run: Path, server: HubServer) -> None:
    offline = hub(server, "push", str(run), "--repo", "user/x", HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stderr) == (
        2,
        "user/x: HF_HUB_OFFLINE is set, so the Hub is not asked; unset it\n",
    )
    assert not server.requests


def test_a_dry_run_says_what_would_be_sent_without_the_network(run: Path) -> None:
    result = run_process("-m", "pipeline.hub", "push", str(run), "--repo", "user/x", "--dry-run", HF_HUB_OFFLINE="1")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^step29: \d+ files, ", result.stdout, re.MULTILINE)
    assert "31 revisions" in result.stdout


def test_damage_here_ends_a_push_before_it_begins(run: Path, server: HubServer, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "damaged")
    (tmp_path / "damaged" / "steps" / "step3" / "model.safetensors").write_bytes(weights(run, 2))
    result = hub(server, "push", str(tmp_path / "damaged"), "--repo", "user/x")
    assert result.returncode == 2
    assert "step3: model.safetensors is corrupted" in result.stderr and "nothing was pushed" in result.stderr
    assert not server.repos


def test_another_run_s_revisions_are_not_overwritten(run: Path, server: HubServer, tmp_path: Path) -> None:
    assert hub(server, "push", str(run), "--repo", "user/x", "--steps", "8").returncode == 0
    assert run_here(write_recipe(tmp_path), "--seed", "1", "--callbacks.progress.style", "off") == 0
    result = hub(server, "push", str(tmp_path / "run"), "--repo", "user/x", "--steps", "8")
    assert result.returncode == 2 and "step8 holds other weights, so those of another run" in result.stderr
    assert server.content("user/x", "step8", "model.safetensors") == weights(run, 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("push", "{run}", "--repo", "tiny"), "repository 'tiny': write it as user/name\n"),
        (("push", "{run}", "--repo", "user/a b"), "repository 'user/a b': "),
        (("push", "{run}", "--repo", "u/x", "--steps", "7,x"), "--steps: '7,x' is not all, last, log, or numbers"),
        (("push", "{run}", "--repo", "u/x", "--steps", "77"), "steps: step 77 was not kept; kept are 0, 1"),
        (("push", "{run}/steps", "--repo", "u/x"), "is not the folder of a run: it has no recipe.yaml"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], message: str, run: Path, server: HubServer) -> None:
    result = hub(server, *(word.format(run=run) for word in words))
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1


def test_others_load_a_step_and_the_card_tells_of_it(run: Path, server: HubServer, tmp_path: Path) -> None:
    assert (
        hub(server, "push", str(run), "--repo", "user/x", "--steps", "0,16", "--corpus", "user/x-data").returncode == 0
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
kept = load_file(r"{run}/steps/step16/model.safetensors")
assert all(model.state_dict()[name].equal(weight) for name, weight in kept.items())
tokenizer = AutoTokenizer.from_pretrained("user/x", revision="step16")
assert tokenizer.decode(tokenizer("3 7 =")["input_ids"]).split() == ["3", "7", "="]
results = ModelCard.load("user/x").data.eval_results
found = {{(result.dataset_split, result.metric_type): result.metric_value for result in results}}
assert found["id", "exact_match"] == {_final(run, "id")}, found
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
        "`grok_step`",
        "`step16`",
        "curve.png",
        'revision="step16"',
        "The resolved recipe",
        "Limits",
    ):
        assert word in card
    assert str(run) not in card and str(run) not in server.content("user/x", "main", "recipe.yaml").decode()
    assert "host" not in json.loads(server.content("user/x", "main", "environment.json"))[0]
    step = server.content("user/x", "step16", "README.md").decode()
    assert "The weights after 16 updates" in step
    manifest = json.loads(server.content("user/x", "step16", "manifest.json"))
    assert manifest["files"]["model.safetensors"]["sha256"] == sha256(run / "steps" / "step16" / "model.safetensors")


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
    assert run_here(recipe, "--max_steps", "2", "--callbacks.progress.style", "off") == 0
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


def test_a_base_on_the_hub_is_continued_and_what_is_closed_is_said(server: HubServer, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "gpt_neox", steps=1)
    code = """
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("org/base")
for branch in ("main", "step1"):
    if branch != "main":
        api.create_branch("org/base", branch=branch)
    api.upload_folder(repo_id="org/base", folder_path="base", revision=branch)
"""
    environment = {**server.environment, "HF_HOME": str(tmp_path / "hf")}
    assert run_process("-c", code, cwd=tmp_path, HF_TOKEN=TOKEN, **environment).returncode == 0
    text = COMPOSITION.replace(
        "{name: gpt2, n_layer: 1, n_embd: 16, n_head: 2, n_positions: 8, dropout: 0.1}",
        "{model_name_or_path: org/base, revision: step1, vocabulary: tokens}",
    )
    recipe = write_recipe(tmp_path, text)

    def start(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        run = ("-m", "pipeline.run", str(recipe), "--output_dir", str(tmp_path / "run"), "--max_steps", "1", *words)
        return run_process(*run, **{**environment, "HF_TOKEN": "", **more})

    done = start()
    assert done.returncode == 0, done.stderr
    kept = (tmp_path / "run" / "steps" / "step0" / "config.json").read_text()
    assert json.loads(kept)["hidden_size"] == json.loads((base / "config.json").read_text())["hidden_size"]
    server.repos["org/gated"] = Repo("model", private=False, gated=True)
    server.repos["org/gated"].commit("main", {})
    other = ("--output_dir", str(tmp_path / "other"))
    for words, message, more in (
        (("--model.model_name_or_path", "org/absent"), "org/absent: is neither a folder here nor a repository", {}),
        (("--model.revision", "step7"), "org/base: has no such revision", {}),
        (("--model.model_name_or_path", "org/gated", "--model.revision", "null"), "org/gated: is gated", {}),
        ((), "is not here, and the Hub cannot be reached", {"HF_HOME": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "1"}),
    ):
        result = start(*words, *other, **more)
        assert result.returncode == 2 and message in result.stderr, (words, result.stderr)
        assert result.stderr.count("\n") == 1, result.stderr
    assert not (tmp_path / "other").exists() or not (tmp_path / "other" / "steps").exists()


@pytest.mark.slow  # the client tries again for a minute
def test_a_base_behind_a_dead_network_is_one_line(server: HubServer, tmp_path: Path) -> None:
    text = COMPOSITION.replace(
        "{name: gpt2, n_layer: 1, n_embd: 16, n_head: 2, n_positions: 8, dropout: 0.1}",
        "{model_name_or_path: org/base, vocabulary: tokens}",
    )
    recipe, environment = str(write_recipe(tmp_path, text)), {**server.environment, "HF_ENDPOINT": CLOSED}
    result = run_process("-m", "pipeline.run", recipe, cwd=tmp_path, HF_HOME=str(tmp_path), **environment)
    assert result.returncode == 2 and "is not here, and the Hub cannot be reached" in result.stderr, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
