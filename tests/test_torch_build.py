"""What set-up says of torch before it is fetched: from what a real pip finds in a folder, without any network."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.tiny import ROOT

sys.path.insert(0, str(ROOT / ".ci"))
import torch_build
from torch_build import Build, build_of, lines

NVIDIA = 'Requires-Dist: nvidia-cublas-cu12==12.8; platform_system == "Linux"\n'


def wheel(folder: Path, version: str, requires: str) -> Path:
    """A package that calls itself torch, with nothing in it."""
    folder.mkdir()
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n{requires}")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="only there has torch a build that needs NVIDIA's libraries")
def test_pip_is_asked_and_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_build, "FIRST", (0, 0))  # in a folder any pip leaves a package where it is
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    for name, version, requires in (("cuda", "2.13.0", NVIDIA), ("cpu", "2.13.0+cpu", "Requires-Dist: jinja2\n")):
        settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
        settings["PIP_FIND_LINKS"] = str(wheel(tmp_path / name, version, requires))
        with monkeypatch.context() as patch:
            for key, value in settings.items():
                patch.setenv(key, value)
            found = torch_build.ask_pip(tmp_path / "constraints.txt")
        assert found == Build(version, name.upper())
    (tmp_path / "empty").mkdir()
    for key, value in {**settings, "PIP_FIND_LINKS": str(tmp_path / "empty")}.items():
        monkeypatch.setenv(key, value)
    assert torch_build.ask_pip(tmp_path / "constraints.txt") is None  # as without a network
    monkeypatch.setenv("PIP_FIND_LINKS", settings["PIP_FIND_LINKS"])
    monkeypatch.setattr(torch_build, "FIRST", (99, 0))
    assert torch_build.ask_pip(tmp_path / "constraints.txt") is None  # an old pip would fetch it


def test_the_large_build_is_told_with_the_way_to_the_small_one() -> None:
    needs = {"version": "2.13.0", "requires_dist": ["sympy", "nvidia-cublas-cu12==12.8; platform_system == 'Linux'"]}
    cuda, cpu = build_of(needs, "linux"), Build("2.13.0+cpu", "CPU")
    assert cuda == Build("2.13.0", "CUDA") and build_of(needs, "darwin").kind == "CPU"
    for build, start in ((cuda, "torch 2.13.0 would come"), (None, "torch usually comes")):
        said = lines(build, gpu=False, system="linux")
        assert said[0].startswith(f"{start} here as its CUDA build: about 3 GB to fetch, 5.5 GB on the disk")
        assert "no NVIDIA GPU" in said[0] and "  make grok PIP_EXTRA_INDEX_URL=URL" in said
    assert lines(cuda, gpu=True) == ["torch 2.13.0 comes as its CUDA build: about 3 GB to fetch, 5.5 GB on the disk"]
    assert lines(cpu, gpu=False) == [
        "torch 2.13.0+cpu comes as its CPU build: about 0.2 GB to fetch, 0.8 GB on the disk"
    ]
    assert lines(None, gpu=False, system="darwin")[0].startswith("torch comes as its CPU build")


def test_make_says_it_before_it_fetches(tmp_path: Path) -> None:
    """The steps of a set-up in order; none is done."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    steps = subprocess.run(
        ["make", "--dry-run", "grok"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    said = next(i for i, line in enumerate(steps) if ".ci/torch_build.py" in line)
    fetched = [i for i, line in enumerate(steps) if " install " in line]
    assert fetched and said < min(fetched)
