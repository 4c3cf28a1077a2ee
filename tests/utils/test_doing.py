"""What a run says on a terminal while it is busy, and that output which nobody watches is free of it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pipeline.utils.doing import ERASE, doing
from tests.tiny import RECIPE, run_here, write_recipe


class Terminal(io.StringIO):
    """A stream that says that a person sits before it."""

    def isatty(self) -> bool:
        return True


def test_a_line_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that wraps would not be erased whole."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    for columns in (80, 40, 10):
        monkeypatch.setenv("COLUMNS", str(columns))
        doing("analysing: " + 20 * "very long, ", 1, 3)
        assert len(terminal.getvalue().split(ERASE)[-1]) < max(columns, 40)
    doing.clear()


def test_a_run_says_what_it_is_busy_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, f"{RECIPE}circuits: {{fourier: {{}}}}\n")
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", terminal)
        assert run_here(recipe, "--max_steps", "2") == 0
    shown = terminal.getvalue()
    assert [text for text in shown.split(ERASE) if text] == [
        "loading torch ...", "building the corpus group ...", "building the model gpt2 ...",
        "measuring all rows of every split ...", "drawing the report ...",
        *(f"[{'#' * (8 * i)}{'.' * (24 - 8 * i)}] {i}/3 analysing: fourier ..." for i in range(4)),
        "drawing the report ...",
    ]  # fmt: skip
    assert shown.endswith(ERASE) and "\x1b" not in capsys.readouterr().out
    assert run_here(recipe, "--max_steps", "2", "--output_dir", str(tmp_path / "other")) == 0
    assert "\x1b" not in capsys.readouterr().err
