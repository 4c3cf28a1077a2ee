"""The groklab command: every command through one door, and the recipes that the package carries."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from pipeline import __version__
from pipeline.__main__ import COMMANDS, main
from pipeline.config.recipe import read_recipe
from tests.tiny import ROOT, write_recipe


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"recipes"}))
def test_a_command_is_the_module_of_its_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"python -m pipeline.{name}" in capsys.readouterr().out


def test_what_there_is_and_what_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2 and main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"groklab {__version__}\n"
    assert main(["repot", "runs/x"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "did you mean report?" in said
    assert main(["run", "no/such.yaml"]) == 2  # the status of the command itself


def test_recipes_are_listed_and_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"quickstart", "grok_gpt2", "launch.slurm", "accelerate_configs/zero2"} <= set(listed)
    assert main(["recipes", "copy", "quickstart", "recipes/group_s5.yaml", "--to", str(tmp_path / "mine")]) == 0
    copy = tmp_path / "mine" / "quickstart.yaml"
    assert copy.read_bytes() == (ROOT / "recipes" / "quickstart.yaml").read_bytes()
    assert read_recipe(copy).name == "quickstart"
    copy.write_text("mine")
    for words, hint in (
        (["copy", "quickstart", "--to", str(copy.parent)], "is there already"),
        (["copy", "quickstrt"], "did you mean quickstart?"),
        (["copy"], "write groklab recipes"),
        (["take", "quickstart"], "write groklab recipes"),
    ):
        capsys.readouterr()
        assert main(["recipes", *words]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and hint in said
    assert copy.read_text() == "mine"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an installation from the wheel has."""
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_the_former_name_of_runs_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", "list", str(tmp_path)]) == 2
    said = capfd.readouterr().err.splitlines()
    assert said[0] == "python -m pipeline.checkpoints is called python -m pipeline.runs now" and len(said) == 2


def test_the_slurm_script_starts_runs_of_an_installed_package(installed: Path, tmp_path: Path) -> None:
    def here(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        own = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        environment = {**own, "PYTHONPATH": str(installed), "PYTHON": sys.executable, **more}
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    copied = here(sys.executable, "-m", "pipeline", "recipes", "copy", "launch.slurm", "quickstart")
    assert copied.stdout.split() == ["launch.slurm", "quickstart.yaml"]
    words = ("quickstart.yaml", "--max_steps", "2", "--output_dir", "run", "--circuits", "{}", "--report_to", "none")
    started = here("bash", "launch.slurm", "--dry-run", *words)
    assert started.stdout.startswith(f"1 node x 1 process, cpu, from {tmp_path}\n")
    command = shlex.split(started.stdout.partition("the job would start:\n")[2].replace("\\\n", " "))
    command = [word.replace("@NODE@", "0") for word in command[command.index(sys.executable) :]]
    assert str(installed / "pipeline" / "shipped" / "accelerate_configs" / "cpu.yaml") in command
    result = here(*command)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "steps" / "step2" / "model.safetensors").is_file()
    for more, hint in (
        ({"ENGINE": "zero9"}, "ENGINE=zero9: there is no such file, and no "),
        ({"PYTHONPATH": "", "PYTHON": "/usr/bin/false"}, "/usr/bin/false has no groklab"),
    ):
        refused = here("bash", "launch.slurm", "--dry-run", *words, **more)
        assert refused.returncode == 2 and refused.stderr.startswith(hint) and refused.stderr.count("\n") == 1


def test_a_sweep_of_an_installed_package_submits_the_script_that_it_carries(installed: Path, tmp_path: Path) -> None:
    told = tmp_path / "told"
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/bash\necho "$@" >> {told}\necho "repository ${{REPOSITORY-none}}" >> {told}\necho 7\n')
    sbatch.chmod(0o755)
    recipe = write_recipe(tmp_path)
    command = [sys.executable, "-m", "pipeline.sweep", str(recipe), "--seed", "0,1", "--slurm", "", "--output_dir", "s"]
    environment = {**os.environ, "PYTHONPATH": str(installed), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and "submitted as job 7" in result.stdout, result.stderr
    lines = told.read_text().splitlines()
    assert str(installed / "pipeline" / "shipped" / "recipes" / "launch.slurm") in lines[0].split()
    assert lines[1] == "repository none"


def test_the_wheel_carries_recipes_configs_and_the_slurm_script(installed: Path) -> None:
    names = {path.relative_to(installed).as_posix() for path in installed.rglob("*")}
    for folder, pattern in (("recipes", "*.yaml"), ("recipes", "launch.slurm"), ("accelerate_configs", "*.yaml")):
        assert {f"pipeline/shipped/{folder}/{path.name}" for path in (ROOT / folder).glob(pattern)} <= names
