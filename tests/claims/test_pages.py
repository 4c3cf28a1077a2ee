"""The table of a claim's runs, where its arms have different numbers."""

from __future__ import annotations

from typing import Any

from pipeline.claims.pages import _arms
from pipeline.report.page import Table


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
