"""What the README says is run as it stands there; only the one command that takes a GPU days is cut short."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.config.recipe import read_recipe
from pipeline.config.registry import names
from pipeline.sweep.grid import grid
from tests import forked
from tests.hub_server import HubServer, hub_server
from tests.test_recipes import SHORT
from tests.tiny import ROOT

README, RECIPES = (ROOT / "README.md").read_text(), (ROOT / "recipes" / "README.md").read_text()
LONG = "accelerate launch pipeline/run.py recipes/grok_gpt2.yaml"


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = [line.partition("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub_server() as server:
        yield server


@pytest.fixture
def run(tmp_path: Path, server: HubServer) -> Callable[[list[str]], str]:
    """Runs a command as beside the repository's folders, with the Hub on loopback, and gives what it prints."""
    for name in ("pipeline", "recipes", "accelerate_configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path),
        **server.environment,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": "hf_notatokenthatanyonehas",
    }

    def run(command: list[str]) -> str:
        if command[0] == "python":
            result = forked.run(*command[1:], cwd=tmp_path, env=environment, timeout=600)
        else:
            result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    return run


@pytest.mark.parametrize("room", ["corpora", "models", "objectives", "optim", "collators", "circuits"])
def test_it_names_everything_that_a_recipe_can(room: str) -> None:
    missing = [name for name in names(room) if f"`{name}`" not in README]
    assert not missing, f"name in README.md: {', '.join(missing)}"


def test_the_commands_work_one_after_the_other(tmp_path: Path, run: Callable[[list[str]], str]) -> None:
    ran = 0
    for command in commands():
        words = shlex.split(command)
        if words[0] == "make":
            run(["make", "--dry-run", "-C", str(ROOT), *words[1:]])
        elif words[:2] == ["pip", "install"]:
            assert (ROOT / "pyproject.toml").is_file()  # what `make` does in every run of these tests
        elif words[0] == "sbatch":  # the tests of Slurm submit it; here, what it would start
            script = words.index("recipes/launch.slurm")
            assert words[script + 1] in run(["bash", words[script], "--dry-run", *words[script + 1 :]])
        elif "--config_file" in words:  # the tests of engines launch every one of them, with a small recipe
            assert (ROOT / words[words.index("--config_file") + 1]).is_file()
        else:
            short = [word for key, value in SHORT.items() for word in (f"--{key}", str(value))]
            probes = ["--corpus.probe_cap", "8"]  # the last evaluation takes all rows
            run([*words, *short, *probes] if command == LONG else words)
            ran += 1
    assert ran >= 8
    printed = [run(["python", "-c", code]) for code in blocks("python")]
    for text in (printed[0], printed[-1]):
        assert re.search(r"12 90 = \d+", text)
    assert (tmp_path / "lens.png").stat().st_size > 1000


def test_the_way_from_make_grok_to_a_revision_can_be_gone(run: Callable[[list[str]], str]) -> None:
    tutorial = RECIPES.partition("## From make grok")[2].partition("\n## ")[0]
    lines = [line for block in blocks("bash", tutorial) for line in block.splitlines()]
    assert lines[:2] == ["make grok", "hf auth login"]  # of which the second has a token here
    assert "$(BIN)/python -m pipeline.run recipes/quickstart.yaml" in (ROOT / "Makefile").read_text()
    for line in ("python -m pipeline.run recipes/quickstart.yaml", *lines[2:]):
        run(line.split())
    (code,) = blocks("python", tutorial)
    before, after = run(["python", "-c", code]).splitlines()
    assert before.startswith("step0 12 90 =") and after == "main 12 90 = 5"  # 102 modulo 97


def test_the_commands_of_the_recipes_are_understood() -> None:
    lines = [line for block in blocks("bash", RECIPES) for line in block.splitlines()]
    ran = {"run": 0, "sweep": 0}
    for line in lines:
        words = shlex.split(line, comments=True)
        kind = words[2].removeprefix("pipeline.") if words[:2] == ["python", "-m"] else ""
        if kind == "run":
            read_recipe(words[3], words[4:])
        elif kind == "sweep":
            assert len(grid(words[3], words[4:], None)) > 1
        if kind in ran:
            ran[kind] += 1
    assert min(ran.values()) > 2


def test_the_recipe_it_shows_is_the_shipped_one() -> None:
    (shown,) = blocks("yaml")
    assert yaml.safe_load(shown) == yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text())


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/guarantees.md", "docs/own-facts.md", "recipes/README.md"]
)
def test_links_and_pictures_are_there(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        if not target.startswith("http"):
            assert (ROOT / page).parent.joinpath(target).exists(), target


def test_the_error_it_shows_is_the_one_that_comes(tmp_path: Path) -> None:
    (shown,) = [block for block in blocks("text") if block.startswith("$ ")]
    command, expected = shown.splitlines()
    result = subprocess.run(
        [sys.executable, *command.split()[2:]], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert result.stderr.startswith(expected.removesuffix(" ..."))
