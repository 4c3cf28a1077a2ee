"""Mistakes on the command line of each command: one line, which says where, what, and what is allowed."""

from __future__ import annotations

import importlib
import shlex

import pytest

MISTAKES = {
    "report": {
        "": "command line: RUN is missing",
        "x --out y": "command line: --out is no option here; did you mean --output?",
        "x --x lin": "--x: there is no 'lin'; did you mean linear? allowed: log, linear",
        "x --style": "--style: needs a value behind it",
        "x -o y": "command line: -o is no option here; allowed: --output, --format, --splits, --x, --style, --width",
    },
    "evaluate": {
        "x --rows all": "--rows: 'all' is not a whole number",
        "x --format xls": "--format: there is no 'xls'; allowed: text, csv, json, parquet",
        "x --trust-remote-code=yes": "--trust-remote-code: takes no value, and is given 'yes'",
    },
    "ask": {"x y z": "command line: 'z' is one word too many; python -m pipeline.ask --help says what is taken"},
    "hub": {
        "psuh x": "push|pull|verify|space: there is no 'psuh'; did you mean push? allowed: push, verify, pull, space",
        "push x": "command line: --repo is missing",
        "push x --repo a/b --privat": "command line: --privat is no option here; did you mean --private?",
    },
    "runs": {"show x last": "STEP: 'last' is not a whole number", "show": "command line: RUN and STEP are missing"},
    "sweep": {"x --jobs two": "--jobs: 'two' is not a whole number"},
    "claims": {"x --budget gpu": "--budget: there is no 'gpu'; allowed: smoke, cpu, paper"},
    "circuits": {
        "x": "command line: --analysis is missing",
        "x --analyses fourier": "command line: --analyses is no option here; did you mean --analysis? allowed: ",
    },
}


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [(command, *case) for command, cases in MISTAKES.items() for case in cases.items()],
)
def test_a_mistake_is_one_line(command: str, words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(f"pipeline.{command}.__main__").main
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(words))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{message}") and said.endswith("\n") and said.count("\n") == 1
    assert "allowed" in message or "did you" in message or said == f"{message}\n"


def test_signs_that_control_the_terminal_are_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module("pipeline.report.__main__").main
    with pytest.raises(SystemExit):
        main(["x", "--x", "a\x1b[31m\nb"])
    assert capsys.readouterr().err.count("\n") == 1
