"""An analysis that fails takes neither run nor report with it; figures are drawn as their tables were made."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.circuits.__main__ import main as circuits
from pipeline.circuits.faithfulness import Faithfulness
from pipeline.circuits.logit_lens import LogitLens
from pipeline.circuits.tables import MADE_OF
from pipeline.config.recipe import read_recipe
from pipeline.report.__main__ import main as report
from pipeline.runs.manifest import Manifest
from pipeline.sweep.grid import Point
from pipeline.sweep.jobs import _ending
from tests.tiny import COMPOSITION, run_here, write_recipe

TWO = "circuits: {logit_lens: {pairs: 10, steps: last}, attention: {pairs: 10, steps: last}}\n"
SHORT = ("--max_steps", "4", "--callbacks.console.style", "off")


def page(run: Path) -> str:
    return (run / "report.md").read_text()


def test_one_that_fails_after_training_is_a_line_in_a_report_that_is_there_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, run = write_recipe(tmp_path, COMPOSITION + TWO), tmp_path / "run"
    before: list[str] = []

    def fails(*_: Any, **__: Any) -> None:
        before.append(page(run))
        raise IndexError("index 16 is out of bounds")

    with monkeypatch.context() as patch:
        patch.setattr(LogitLens, "measure", fails)
        assert run_here(recipe, *SHORT) == 1
    assert len(before) == 1 and "4 steps took" in before[0]
    said = capsys.readouterr().err
    again = f"again: python -m pipeline.circuits {run} --analysis logit_lens"
    assert "Traceback" in said and said.splitlines()[-1].endswith(again)
    finished = Manifest.load(run).finished
    assert finished and finished["step"] == 4
    assert "It failed: IndexError: index 16 is out of bounds." in page(run) and "figures/attention" in page(run)
    # A sweep whose run ended so counts it with what came of it.
    point = Point("one", read_recipe(recipe, [*SHORT, f"--output_dir={run}"]), [], time.monotonic())
    point.process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    point.process.wait()
    assert "FAILED" not in _ending(point) and _ending(point).endswith(again)
    # The same command has nothing to do, and says what failed.
    assert run_here(recipe, *SHORT) == 0
    assert again in capsys.readouterr().out
    assert circuits([str(run), "--analysis", "logit_lens", "--steps", "last", "--pairs", "10"]) == 0
    assert "It failed" not in page(run) and "figures/logit_lens" in page(run)
    assert run_here(recipe, *SHORT) == 0
    assert "failed" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("failures")
    assert run_here(write_recipe(folder, COMPOSITION), *SHORT) == 0
    words = ("--analysis", "faithfulness", "--pairs", "10", "--faithfulness.shares", "[0.1,1]")
    assert circuits([str(folder / "run"), *words, "--steps", "0,4", "--faithfulness.target", "0.3"]) == 0
    return folder / "run"


def test_figures_are_drawn_with_the_parameters_of_their_tables(run: Path) -> None:
    assert Faithfulness().target == 0.8  # which the tables were not made for
    files = {path: path.read_bytes() for path in (run / "circuits" / "faithfulness").glob("*.parquet")}
    try:
        for path in files:  # four steps teach nothing, so that there would be no circuit to speak of
            table = pq.read_table(path)
            for name, value in {"absent": False, "smallest": 3.0, "cpr": 0.5, "cmd": 0.5}.items():
                column = pa.array([value] * len(table))
                table = table.set_column(table.column_names.index(name), name, column)
            pq.write_table(table, path)
        assert report([str(run)]) == 0
        assert "smallest circuit at 0.3: 3" in page(run) and "circuit at 0.8" not in page(run)
    finally:
        for path, content in files.items():
            path.write_bytes(content)


def test_tables_with_other_parameters_are_not_drawn_together(run: Path) -> None:
    folder = run / "circuits" / "faithfulness"
    kept = {path: path.read_bytes() for path in folder.glob("*.parquet")}
    words = ("--analysis", "faithfulness", "--pairs", "10", "--faithfulness.shares", "[0.1,1]", "--steps", "0")
    try:
        assert circuits([str(run), *words, "--faithfulness.target", "0.5"]) == 0
        assert "Left out is what was made with other parameters than at step 4: step 0." in page(run)
        assert "Tables of 1 step:" in page(run)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


def with_metadata(path: Path, **changes: Any) -> None:
    table = pq.read_table(path)
    facts = {**json.loads(table.schema.metadata[MADE_OF]), **changes}
    pq.write_table(table.replace_schema_metadata({MADE_OF: json.dumps(facts)}), path)


def test_a_bug_in_drawing_is_no_other_version(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise KeyError("a style that there is not")

    folder = run / "circuits" / "faithfulness"
    kept = {path: path.read_bytes() for path in folder.glob("*.parquet")}
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Faithfulness, "draw", fails)
            assert report([str(run)]) == 1
            assert "could not be drawn: KeyError: 'a style that there is not'" in page(run)
            assert "another version" not in page(run) and "Traceback" in capsys.readouterr().err
            for path in kept:
                with_metadata(path, code="0" * 16)
            assert report([str(run)]) == 0
            assert "were written by another version" in page(run)
        parameters = json.loads(pq.read_schema(folder / "step4.parquet").metadata[MADE_OF])["parameters"]
        for path in kept:  # a parameter that is not here any more, and one that was not there then
            with_metadata(path, parameters={**parameters, "gone": 1})
        assert report([str(run)]) == 0 and "were written by another version" in page(run)
        for facts in (
            "[",
            "[]",
            '{"parameters": [1]}',
            '{"parameters": {"target": {}}}',
            '{"parameters": {"target": 9}}',
        ):
            for path in kept:
                table = pq.read_table(path)
                pq.write_table(table.replace_schema_metadata({MADE_OF: facts}), path)
            assert report([str(run)]) == 0
        for path, content in kept.items():
            path.write_bytes(content)
        for path in kept:
            with_metadata(path, parameters={key: value for key, value in parameters.items() if key != "seed"})
        assert report([str(run)]) == 0
        assert "Its tables are of an earlier version, which had no `seed`." in page(run)
        assert "Tables of 2 steps" in page(run)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


def test_a_damaged_table_is_a_line(run: Path) -> None:
    path = run / "circuits" / "faithfulness" / "step4.parquet"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:-20])
        assert report([str(run)]) == 0
        assert f"`python -m pipeline.circuits {run} --analysis faithfulness` computes it anew." in page(run)
    finally:
        path.write_bytes(content)


def test_a_folder_without_tables_is_no_reason_to_fail(run: Path) -> None:
    (run / "circuits" / "patching").mkdir()
    try:
        assert report([str(run)]) == 0
    finally:
        (run / "circuits" / "patching").rmdir()


@pytest.mark.parametrize("error", [ValueError("operands could not be broadcast"), TypeError("unsupported operand")])
def test_a_bug_is_no_mistake_of_the_user(run: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(LogitLens, "measure", fails)
    with pytest.raises(type(error)):  # with its traceback, which a line on the terminal would hide
        circuits([str(run), "--analysis", "logit_lens", "--steps", "4", "--pairs", "10"])


def test_what_does_not_go_together_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = run / "steps" / "step2" / "model.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-1])
        assert circuits([str(run), "--analysis", "logit_lens", "--steps", "2", "--pairs", "10"]) == 2
        said = capsys.readouterr().err
        assert "model.safetensors has" in said and said.count("\n") == 1
    finally:
        weights.write_bytes(content)
