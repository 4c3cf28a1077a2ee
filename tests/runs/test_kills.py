"""Runs that are killed at random instants end as if nobody had touched them: a few times what `tests.kills` does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kills import kill_many


@pytest.mark.parametrize(("times", "processes"), [(8, 1), (8, 2)])
def test_a_run_survives(times: int, processes: int, tmp_path: Path) -> None:
    counts = kill_many(tmp_path, times, processes=processes)
    assert counts["killed"] == counts["saved"] == times // 2 and counts["compared"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_survives_forty(processes: int, tmp_path: Path) -> None:
    counts = kill_many(tmp_path, 40, seed=1, processes=processes)
    assert counts["killed"] == counts["saved"] == 20 and counts["compared"]
