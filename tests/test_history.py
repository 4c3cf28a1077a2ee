"""metrics.jsonl is read line by line, and a damaged line is named."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipeline.history import METRICS, read_history, read_series
from pipeline.reading import RecipeError


def write(run: Path, *lines: str) -> Path:
    (run / METRICS).write_text("".join(lines))
    return run


def test_every_key_becomes_a_series(tmp_path: Path) -> None:
    write(
        tmp_path, '{"step": 0, "loss": 4, "note": "x"}\n', '{"step": 5, "loss": null}\n', '{"step": 5, "norm": 2.5}\n'
    )
    series = read_series(tmp_path)
    assert series.keys() == {"step", "loss", "norm"}
    assert list(series["loss"].steps) == [0, 5] and series["loss"].values[0] == 4.0
    assert math.isnan(series["loss"].values[1])  # it was logged, and was not finite
    assert list(zip(*series["norm"])) == [(5, 2.5)]


def test_a_key_logged_twice_at_a_step_has_the_later_value(tmp_path: Path) -> None:
    write(tmp_path, '{"step": 1, "loss": 4}\n', '{"step": 1, "loss": 3}\n', '{"step": 2, "loss": 2}\n')
    assert list(zip(*read_series(tmp_path)["loss"])) == [(1, 3.0), (2, 2.0)]


def test_a_run_that_has_logged_nothing_has_no_history(tmp_path: Path) -> None:
    assert read_history(tmp_path) == [] and read_series(tmp_path) == {}
    assert read_history(write(tmp_path)) == []


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, '{"step": 1, "loss": 4}\n', '{"step": 2, "lo')
    assert read_history(tmp_path) == [{"step": 1, "loss": 4}]


@pytest.mark.parametrize(
    "damage", ['{"step": 2, "lo', "", "[1]", "7", '{"loss": 1}', '{"step": null}', "\x00\x00", "\xff"]
)
def test_a_damaged_line_is_named(tmp_path: Path, damage: str) -> None:
    lines = ['{"step": 1, "loss": 4}', damage, '{"step": 3, "loss": 1}', ""]
    (tmp_path / METRICS).write_bytes("\n".join(lines).encode("latin-1"))
    with pytest.raises(RecipeError) as caught:
        read_history(tmp_path)
    assert str(caught.value) == f"{tmp_path / METRICS}:2: is damaged; delete the line to go on without it"
