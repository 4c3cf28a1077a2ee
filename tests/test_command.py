"""The groklab command: every command through one door, and the recipes that the package carries."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from pipeline import __version__
from pipeline.__main__ import COMMANDS, main
from pipeline.config.recipe import read_recipe
from tests.tiny import ROOT


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


def test_the_wheel_carries_recipes_configs_and_the_slurm_script(tmp_path: Path) -> None:
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, pattern in (("recipes", "*.yaml"), ("recipes", "launch.slurm"), ("accelerate_configs", "*.yaml")):
        assert {f"pipeline/shipped/{folder}/{path.name}" for path in (ROOT / folder).glob(pattern)} <= names
