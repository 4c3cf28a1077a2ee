"""Bases and texts that lie on the Hub, what is closed there, and what is said where nobody answers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from safetensors.torch import load_file

from tests.bases import logged, make_base, recipe_of
from tests.hub_server import CLOSED, TOKEN, HubServer
from tests.hub_store import Repo
from tests.tiny import COMPOSITION, run_here, run_process, write_recipe


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


def test_a_base_or_a_text_behind_a_dead_network_is_one_line(bases: Path, server: HubServer, tmp_path: Path) -> None:
    environment = {**server.environment, "HF_ENDPOINT": CLOSED, "HF_HOME": str(tmp_path)}
    recipe = write_recipe(tmp_path, recipe_of(bases, "gpt2"))
    for words, message in (
        (
            ("--model.model_name_or_path", "org/base"),
            "org/base: its tokenizer is not here, and the Hub cannot be reached",
        ),
        (("--replay.source", "org/text"), f"org/text is no file here, and the Hub cannot be reached ({CLOSED}: "),
    ):
        result = run_process("-m", "pipeline.run", str(recipe), *words, cwd=tmp_path, **environment)
        assert result.returncode == 2 and message in result.stderr, result.stderr
        assert result.stderr.count("\n") == 1, result.stderr


def test_texts_are_streamed_from_the_hub(bases: Path, server: HubServer, tmp_path: Path) -> None:
    """A run that replays a dataset of the Hub ends with the weights of one that replays the same lines from a file."""
    lines = (bases / "replay.txt").read_text().splitlines()
    code = """
import datasets, sys
from pathlib import Path
for split, name in (("train", "replay"), ("test", "held_out")):
    rows = [{"body": line} for line in Path(sys.argv[1], f"{name}.txt").read_text().splitlines()]
    datasets.Dataset.from_list(rows).push_to_hub("org/text", "small", split=split)
"""
    environment = {**server.environment, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": TOKEN}
    pushed = run_process("-c", code, str(bases), **environment)
    assert pushed.returncode == 0, pushed.stderr
    assert len(lines) == 400
    recipe = write_recipe(tmp_path, recipe_of(bases, "gpt_neox") + "\nreplay: {ratio: 0.5, length: 32}\n")
    there = {"source": "org/text", "config": "small", "column": "body"}
    texts = [
        f"--{where}.{key}={value}" for where in ("replay", "callbacks.base_perplexity") for key, value in there.items()
    ]
    words = ("--max_steps", "8", "--output_dir", str(tmp_path / "hub"), *texts)
    result = run_process("-m", "pipeline.run", str(recipe), *words, **environment)
    assert result.returncode == 0, result.stderr
    words = ("--max_steps", "8", "--output_dir", str(tmp_path / "file"), "--replay.source", str(bases / "replay.txt"))
    assert run_here(recipe, *words) == 0
    hub, file = (load_file(tmp_path / name / "steps" / "step8" / "model.safetensors") for name in ("hub", "file"))
    assert hub.keys() == file.keys() and all(hub[key].equal(weight) for key, weight in file.items())
    assert logged(tmp_path / "hub", "base_perplexity") == logged(tmp_path / "file", "base_perplexity")
    wrong = ("--replay.config", "large", "--replay.source", "org/text", "--output_dir", str(tmp_path / "wrong"))
    result = run_process("-m", "pipeline.run", str(recipe), *wrong, **environment)
    assert result.returncode == 2 and "replay.source: org/text cannot be read (ValueError: " in result.stderr
    assert "small" in result.stderr and result.stderr.count("\n") == 1, result.stderr
