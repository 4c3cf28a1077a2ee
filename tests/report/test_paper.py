"""Curves for a paper, and pages whose curves are chosen; rows of a comparison lead to the reports of their runs."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from pipeline.plots.axes import StepScale
from pipeline.report.__main__ import main
from tests.report.test_comparison import a_run
from tests.report.test_page import Reader


def test_a_curve_for_a_paper_has_its_width_axis_and_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run(tmp_path / "run")
    words = ["--style", "paper", "--width", "column", "--x", "linear", "--splits", "id", "--format", "pdf,svg,png"]
    assert main([str(run), *words]) == 0
    files = [run / "figures" / f"curve_paper.{ending}" for ending in ("pdf", "svg", "png", "csv")]
    assert capsys.readouterr().out.split() == [str(file) for file in files]
    assert {file.name for file in run.iterdir()} & {"report.md", "report.html"} == set()
    page = re.search(rb"/MediaBox \[\s*0 0 ([\d.]+)", files[0].read_bytes())
    assert page and float(page[1]) == pytest.approx(3.3 * 72)
    drawing = files[1].read_text()
    assert ">id</text>" in drawing and ">train</text>" not in drawing
    assert ">2,000</text>" in drawing and "log scale" not in drawing
    assert Image.open(files[2]).width == pytest.approx(3.3 * 220, abs=1)
    rows = list(csv.DictReader(files[3].open()))
    assert {row["split"] for row in rows} == {"id"} and len(rows) == 7
    assert main([str(run), "--style", "paper", "--width", "page"]) == 0
    assert Image.open(files[2]).width == pytest.approx(6.9 * 220, abs=1)


def test_curves_of_several_runs_for_a_paper(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(a_run(tmp_path / f"run{seed}", f"--seed={seed}")) for seed in (0, 1)]
    assert main([*runs, "--style", "paper", "--splits", "id", "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out.split()
    assert said == [str(tmp_path / "out" / "figures" / f"match_id_paper.{ending}") for ending in ("pdf", "png", "csv")]
    rows = csv.DictReader(Path(said[-1]).read_text().splitlines())
    assert [row["number"] for row in rows] == ["0"] * 7 + ["1"] * 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--splits", "idd"], "--splits: there is no split 'idd'; did you mean id? allowed: train, id"),
        (["--splits", ""], "--splits: there is no split ''; allowed: train, id"),
        (["--format", ""], "--format: '' is no format of figures; allowed: png, svg, pdf"),
        (["--width", "page"], "--width: is for figures of a paper; write --style paper too"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(a_run(tmp_path / "run")), *words]) == 2
    assert capsys.readouterr().err == f"{message}\n"


def test_a_linear_axis_is_one() -> None:
    scale = StepScale(100, 2000, linear=True)
    assert np.allclose(scale.position([0, 500, 2000]), [0, 0.25, 1])


def test_rows_lead_to_reports_where_there_are_some(tmp_path: Path) -> None:
    runs = [a_run(tmp_path / name, f"--seed={seed}") for seed, name in enumerate(("a run: <b>", "plain", "none"))]
    for run in runs[:2]:
        assert main([str(run), "--splits", "train"]) == 0
    out = tmp_path / "pages" / "out"
    assert main([*map(str, runs), "--output", str(out)]) == 0
    page = Reader((out / "report.html").read_text())
    links = [str(attributes["href"]) for tag, attributes in page.tags if tag == "a"]
    assert [(out / unquote(link)).resolve() for link in links] == [run / "report.html" for run in runs[:2]]
    text = (out / "report.md").read_text()
    assert all(f"]({link})" in text for link in links) and text.count("report.html)") == 2
