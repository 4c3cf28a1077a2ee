"""The tutorial notebook: its cells are run one after the other on a short run, here and in a kernel of Jupyter."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.recipe import read_recipe
from tests.test_docs import run_python
from tests.tiny import ROOT

SHORT = ["--max_steps", "4", "--save_strategy", "no", "--callbacks.console.style", "off"]  # which keeps steps 0 to 4
NOTEBOOK = ROOT / "recipes" / "tutorial.ipynb"


def cells() -> list[str]:
    """The code of the notebook."""
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def words_of(code: str) -> list[str]:
    """A cell that is a command, as words that begin with `python`."""
    magic, line = code.splitlines()
    assert magic == "%%bash" and line.startswith("python -m ")
    return shlex.split(line)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the notebook lies, and its runs will."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quickstart.yaml").symlink_to(ROOT / "recipes" / "quickstart.yaml")
    monkeypatch.chdir(tmp_path / "recipes")
    return tmp_path


def test_its_cells_work_one_after_the_other(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")  # a kernel has one of its own
    import matplotlib.pyplot as plt

    names: dict[str, Any] = {}
    ran = []
    for code in cells():
        if code.startswith("%%"):
            words = words_of(code)
            ran.append(words[2])
            run_python([*words, *(SHORT if words[2] == "pipeline.run" else [])])
        elif "IPython" in code:  # what it shows is there; a kernel shows it in the test below
            (picture,) = re.findall(r'Image\("([^"]+)"', code)
            assert (home / picture).read_bytes().startswith(b"\x89PNG")
        else:
            exec(compile(code, str(NOTEBOOK), "exec"), names)
    assert ran == ["pipeline.run", "pipeline.ask", "pipeline.circuits"]
    assert len(plt.get_fignums()) == 3
    plt.close("all")
    said = capsys.readouterr().out
    assert "12 90 =   " in said and "right is 5" in said and re.search(r"^4 0\.\d+$", said, re.MULTILINE)
    logged = names["run"].metrics().query("metric == 'final_exact_match' and split == 'id'").value.iloc[-1]
    assert names["exact_match"](names["run"].model()) == pytest.approx(logged)
    assert names["power"](names["run"].model()).sum() == pytest.approx(1)
    everything = names["with_frequencies"](names["run"].model(), range(1, 49))
    assert names["exact_match"](everything) == pytest.approx(logged, abs=0.01)


def test_what_it_shows_was_made_by_its_cells_and_names_no_machine() -> None:
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 600_000
    shown = [cell for cell in content["cells"] if cell["cell_type"] == "code" and cell["outputs"]]
    data = [output.get("data", {"text": output.get("text", "")}) for cell in shown for output in cell["outputs"]]
    said = ["".join(value) for output in data for kind, value in output.items() if not kind.startswith("image/")]
    absolute = re.compile(r"(?<![\w.:/<])/\w[\w.-]*/[\w./-]+")
    assert not absolute.findall("\n".join([*("".join(cell["source"]) for cell in content["cells"]), *said]))
    kinds = {kind for cell in shown for output in cell["outputs"] for kind in output.get("data", {})}
    assert len(shown) > 8 and "image/png" in kinds
    assert not any(output["output_type"] == "error" for cell in shown for output in cell["outputs"])
    assert "<- groks" in text


def test_its_recipe_can_be_read() -> None:
    words = words_of(next(code for code in cells() if "pipeline.run" in code))
    assert str(read_recipe(ROOT / words[3], words[4:]).output_dir) == "runs/tutorial"


@pytest.mark.slow
def test_a_kernel_runs_it(home: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if "pipeline.run" in cell.source:
            cell.source += f" {shlex.join(SHORT)}"
    done = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(home / "recipes")}}
    ).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert "right is 5" in "".join(output.get("text", "") for output in outputs)
