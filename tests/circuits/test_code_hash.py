"""A table outlives new files beside its analysis, and not a change of what its analysis imports."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.circuits.attribution import Attribution
from pipeline.circuits.logit_lens import LogitLens
from pipeline.circuits.runner import explain
from pipeline.config import registry as rooms
from pipeline.config.registry import names
from pipeline.runs.folder import RunFolder
from pipeline.utils import code_hash
from tests.tiny import ROOT


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The analyses in a copy of this package, which are found and whose code is hashed."""
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    for module in (code_hash, rooms):
        monkeypatch.setattr(module, "__file__", str(tmp_path / "pipeline" / "room" / "module.py"))
    return tmp_path / "pipeline" / "circuits"


def test_a_table_is_made_again_when_its_code_is_another(registry: Path, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished.parent / "run", tmp_path / "run"))
    analyses = {"logit_lens": LogitLens(steps="last"), "attribution": Attribution(steps="last", pairs=8)}

    def made_again() -> set[str]:
        """Which analyses write their table anew."""
        before = {path: path.stat().st_ino for path in run.glob("circuits/*/*.parquet")}
        return {
            path.parent.name for path in explain(RunFolder(run), analyses) if path.stat().st_ino != before.get(path)
        }

    def add(name: str, text: str) -> None:
        with open(registry / name, "a") as file:
            file.write(text)

    assert made_again() == {"logit_lens", "attribution"}
    assert made_again() == set()
    text = (registry / "attention.py").read_text()
    (registry / "another.py").write_text(text.replace("class Attention(", "class Another("))
    add("_helper.py", "HELPER = 1\n")
    assert "another" in names("circuits") and made_again() == set()
    add("patching.py", "OTHER = 1\n")  # of an analysis that neither imports
    add("_graph.py", "# A comment.\n")
    assert made_again() == set()
    add("_graph.py", "OTHER = 1\n")
    assert made_again() == {"attribution"}
    add("_parallel.py", "OTHER = 1\n")  # imported inside a function
    assert made_again() == {"logit_lens"}
    add("hooks.py", "OTHER = 1\n")  # imported by a helper
    assert made_again() == {"logit_lens", "attribution"} and made_again() == set()
