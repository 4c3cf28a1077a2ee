"""Pages of claims: the table of its runs, the rows behind its figure, and the pictures of the gallery."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.claims.base import Found, Measured
from pipeline.claims.pages import _arms, gallery, sheet_of
from pipeline.report.page import Table
from pipeline.runs.folder import RunFolder
from tests.tiny import ROOT
from tests.written_runs import write_run

RESULTS = ROOT / "recipes" / "results"


def test_a_number_stands_under_its_own_name() -> None:
    def arm(**values: float | None) -> dict[str, Any]:
        return {"runs": [{"seed": 0, "steps": 1000, "values": values}]}

    _, table = _arms({"arms": {"one": arm(id=0.5, ood=None), "other": arm(hard=0.25, id=1.0), "none": {"runs": []}}})
    assert isinstance(table, Table)
    assert [str(name).strip("`") for name in table.header] == ["arm", "seed", "steps", "id", "ood", "hard"]
    assert [list(row) for row in table.rows] == [
        ["one", "0", "1,000", "0.5", "not reached", "–"],
        ["other", "0", "1,000", "1", "–", "0.25"],
    ]


def test_the_rows_behind_a_figure_are_evaluations_and_what_was_measured(tmp_path: Path) -> None:
    run = RunFolder.read(write_run(tmp_path / "run", {0: [0.2, 0.1], 50: [1, 0.5]}, final=[1, 1]))
    sheet = sheet_of(Found({"plain": [Measured(3, run, {"gap": None, "steps": 4.0})], "other": []}, 1))
    table = pd.read_csv(io.BytesIO(sheet.as_csv()))
    assert set(table.arm) == {"plain"} and set(table.seed) == {3}
    matches = table[table.measure == "eval_id_exact_match"]
    assert [*zip(matches.step, matches.value)] == [(0, 0.1), (50, 0.5)]
    assert table[table.measure == "steps"][["step", "value"]].to_numpy().tolist() == [[run.last_step, 4]]
    assert table[table.measure == "gap"].value.isna().all()


def test_a_gallery_shows_what_is_recorded_in_its_format(tmp_path: Path) -> None:
    results = {"power2022_delay": json.loads((RESULTS / "power2022_delay.json").read_text())}
    (tmp_path / "power2022_delay.png").write_bytes(b"a picture")
    page = gallery(results, tmp_path)
    assert f"data:image/png;base64,{base64.b64encode(b'a picture').decode()}" in page and "svg+xml" not in page
    assert "data:image/png" in gallery(results, tmp_path, "svg")  # there is none yet
    (tmp_path / "power2022_delay.svg").write_bytes(b"<svg/>")
    assert f"data:image/svg+xml;base64,{base64.b64encode(b'<svg/>').decode()}" in gallery(results, tmp_path, "svg")
    assert "svg+xml" not in gallery(results, tmp_path)
