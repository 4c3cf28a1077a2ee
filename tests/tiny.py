"""Runs small enough for tests: a recipe in a file, and the main job in this process or in one of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import forked

ROOT = Path(__file__).parent.parent

RECIPE = """
corpus: {name: group, group: Z11, train_fraction: 0.5, template: a b = c}
model: {name: gpt2, n_layer: 1, n_embd: 16, n_head: 2, n_positions: 8, dropout: 0.1}
checkpoints: {powers_of_two: true, every: [[10, null]]}
callbacks: {console: {style: plain, seconds: 0}}
max_steps: 24
global_batch_size: 16
learning_rate: 1e-2
weight_decay: 0.1
eval_steps: 6
save_steps: 6
logging_steps: 3
"""

# With a few kept steps, and two checkpoints.
SHORT = RECIPE.replace("max_steps: 24", "max_steps: 8").replace("save_steps: 6", "save_steps: 4")

# Two-hop facts with rows of two lengths, and every kind of split.
COMPOSITION = RECIPE.replace(
    "{name: group, group: Z11, train_fraction: 0.5, template: a b = c}",
    "{name: composition, num_entities: 30, num_relations: 6, out_degree: 4, ratio: 2, ood_fraction: 0.2}",
).replace("global_batch_size: 16", "global_batch_size: 32")


def write_recipe(folder: Path, text: str = RECIPE, name: str = "tiny") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def run_here(path: Path, *overrides: str) -> int:
    """The main job in this process; returns its exit status. Runs lie beside the recipe unless overridden."""
    from pipeline.run import main

    words = list(overrides)
    if not any(word.startswith("--output_dir") for word in words):
        words += ["--output_dir", str(path.parent / "run")]
    return main([str(path), *words])


def json_of(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """What a command that succeeds prints with `--format json`."""
    capsys.readouterr()
    assert main([*map(str, words), "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def tree(folder: Path) -> dict[str, bytes]:
    """The content of all files in a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def run_process(*command: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of this interpreter, from any directory, with what it printed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    if (command[0] == "-m" and command[1].startswith("pipeline.")) or command[0] == str(ROOT / "pipeline" / "run.py"):
        return forked.run(*command, cwd=cwd or ROOT, env=env, timeout=300)
    return subprocess.run(
        [sys.executable, *command], cwd=cwd or ROOT, env=env, capture_output=True, text=True, timeout=300
    )


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
