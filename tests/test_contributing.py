"""What CONTRIBUTING.md shows is added to a copy of this repository as it stands there, and keeps every contract."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config.registry import ROOMS
from tests.tiny import ROOT

GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
# A block of code under a line that ends with the file it stands in.
SHOWN = dict(
    re.findall(r"`((?:pipeline|recipes|tests)/[\w/]+\.\w+)`:\n\n```\w+\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with the files that the guide shows."""
    folder = tmp_path_factory.mktemp("stranger")
    for name in ("pipeline", "tests", "recipes", "accelerate_configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for path, code in SHOWN.items():
        assert not (folder / path).exists(), path
        (folder / path).write_text(code)
    return folder


def run(copy: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    result = subprocess.run(
        [sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_what_it_shows_keeps_the_contracts_of_its_rooms(copy: Path) -> None:
    added = [Path(path) for path in SHOWN if path.startswith("pipeline/")]
    tests = sorted({f"tests/{path.parts[1]}/test_contract.py" for path in added})
    wanted = " or ".join(path.stem for path in added)
    said = run(copy, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests, "-k", wanted)
    assert re.search(r"\d+ passed", said) and "failed" not in said and "skipped" not in said


def test_the_parity_it_shows_is_one(copy: Path) -> None:
    code = """
from pipeline.corpora.parity import Parity
from pipeline.corpora.store import build
stored = build(Parity())
assert stored.sizes == {"train": 2048, "id": 2048}
block = next(stored.blocks("id"))
assert ((block.prompts[:, :3].sum(axis=1) % 2) == block.answers[:, 0]).all()
"""
    run(copy, "-c", code)


TRAINED = """
import contextlib, io, json
from pathlib import Path
from pipeline.config.registry import names
from pipeline.run import main
for name in [None, *names("circuits")]:
    words = [] if name is None else [f"--circuits={{{name}: {{}}}}"]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        status = main(["recipes/parity.yaml", "--max_steps", "2", f"--output_dir=runs/{name}", *words])
    print("told", json.dumps([name, status, said.getvalue(), Path(f"runs/{name}/steps/step2").exists()]))
"""


def test_the_recipe_it_shows_trains_and_an_analysis_of_its_model_works_or_is_refused_before(copy: Path) -> None:
    said = run(copy, "-c", TRAINED).splitlines()
    lines = [json.loads(line[5:]) for line in said if line.startswith("told ")]
    assert lines[0] == [None, 0, "", True] and len(lines) > 5
    for name, status, said, trained in lines:
        assert (status, trained) in ((0, True), (2, False))
        assert status == 0 or (said.count("\n") == 1 and f"circuits.{name}" in said)


def test_it_shows_code_for_every_room_that_grows() -> None:
    shown = {Path(path).parts[1] for path in SHOWN if path.startswith("pipeline/")}
    assert shown >= ROOMS.keys() - {"claims"}
