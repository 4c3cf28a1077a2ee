"""What rooms say goes through one logger: no print, no stream of their own, one line a message."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from pipeline.utils.log import log
from tests.tiny import ROOT

# Entries print results; `terminal` is what wraps them.
PRINTING = {
    "ask/session.py",
    "utils/arguments.py",
    "utils/exit_status.py",
    "run.py",
    "checkpoints.py",
    "utils/terminal.py",
}


def test_only_entries_print() -> None:
    home = ROOT / "pipeline"
    for path in home.rglob("*.py"):
        name = path.relative_to(home).as_posix()
        if path.name == "__main__.py" or name in PRINTING:
            continue
        called = {
            ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        }
        assert not called & {"print", "say", "builtins.print", "sys.stdout.write"}, name


def test_a_warning_goes_to_stderr_and_the_rest_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    log.info("100% of \x1b[31m\nit")
    log.warning("look")
    log.debug("unseen")
    assert capsys.readouterr() == ("100% of  [31m it\n", "look\n")


def test_what_all_processes_have_to_say_the_first_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    log.info("hello")
    log.warning("look")
    assert capsys.readouterr() == ("", "look\n")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_message_leaves_the_process_at_once_and_once(encoding: str) -> None:
    # With a handler on the root, as libraries put there; os._exit flushes nothing.
    script = (
        "import logging, os, sys; logging.basicConfig()\n"
        "from pipeline.utils.terminal import run_command\nfrom pipeline.utils.log import log\n"
        "def main():\n    log.info('caf\\u00e9'); log.warning('w'); os._exit(0)\nrun_command(main)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, cwd=ROOT, env={"PYTHONIOENCODING": encoding}
    )
    assert (found.stdout, found.stderr) == ("café\n".encode(encoding, "replace"), b"w\n")


def test_a_closed_stdout_is_no_obstacle() -> None:
    script = "from pipeline.utils.log import log; log.info('a'); log.warning('b')"
    found = subprocess.run(
        ["sh", "-c", f'exec {sys.executable} -c "{script}" >&-'], capture_output=True, text=True, cwd=ROOT
    )
    assert (found.returncode, found.stderr) == (0, "b\n")
