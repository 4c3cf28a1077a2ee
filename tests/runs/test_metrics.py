"""metrics.jsonl is read line by line, and a damaged line is named."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runs import metrics as history
from pipeline.runs.metrics import METRICS, read_history, read_series, rewind_history
from pipeline.utils import files
from pipeline.utils.errors import RecipeError


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


@given(
    st.lists(st.integers(0, 30), max_size=60).map(sorted),
    st.none() | st.integers(0, 30),
    st.sampled_from(["", '{"step": 3, "lo']),
    st.integers(8, 64),
)
def test_going_back_cuts_off_what_came_later(steps: list[int], step: int | None, torn: str, block: int) -> None:
    lines = [f'{{"step": {at}, "note": "{"x" * (at % 7)}"}}\n' for at in steps]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(history, "lines_backwards", lambda path: files.lines_backwards(path, block))
        run = write(Path(folder), *lines, torn)
        assert (history.last_line(run) or {}).get("step") == (steps[-1] if steps else None)
        rewind_history(run, step)
        kept = [line for line, at in zip(lines, steps) if step is not None and at <= step]
        assert (run / METRICS).read_text() == "".join(kept)


def test_going_back_reads_no_more_than_it_cuts_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(tmp_path, *(f'{{"step": {step}}}\n' for step in range(100_000)))
    parsed = []
    monkeypatch.setattr(history, "_parsed", lambda text: parsed.append(text) or json.loads(text))
    rewind_history(run, 99_990)
    assert len(parsed) == 10 and history.last_line(run) == {"step": 99_990}


def test_a_damaged_line_on_the_way_back_is_named(tmp_path: Path) -> None:
    write(tmp_path, '{"step": 1}\n', "{\n", '{"step": 3}\n')
    with pytest.raises(RecipeError, match=r"metrics\.jsonl:2"):
        rewind_history(tmp_path, 1)


def test_lines_that_mention_a_word(tmp_path: Path) -> None:
    write(tmp_path, '{"step": 1, "loss": 4}\n', '{"step": 1, "eval_id_exact_match": 0}\n')
    assert [line["step"] for line in history.read_lines(tmp_path, "_exact_match")] == [1]


@pytest.mark.parametrize(
    "damage", ['{"step": 2, "lo', "", "[1]", "7", '{"loss": 1}', '{"step": null}', "\x00\x00", "\xff"]
)
def test_a_damaged_line_is_named(tmp_path: Path, damage: str) -> None:
    lines = ['{"step": 1, "loss": 4}', damage, '{"step": 3, "loss": 1}', ""]
    (tmp_path / METRICS).write_bytes("\n".join(lines).encode("latin-1"))
    with pytest.raises(RecipeError) as caught:
        read_history(tmp_path)
    assert str(caught.value) == f"{tmp_path / METRICS}:2: is damaged; delete the line to go on without it"
