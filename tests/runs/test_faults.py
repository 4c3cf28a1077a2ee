"""Whatever file operation of a run fails, nothing is lost and the line is true; see `tests.faults`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.faults import start

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="the shim is C, and there is no gcc")


@needs_compiler
def test_a_run_survives_some_faults(tmp_path: Path) -> None:
    done = start(tmp_path, "--times", "5", "--seed", "1")
    assert done.returncode == 0 and "5 of 5 faults survived" in done.stdout, done.stdout


@needs_compiler
@pytest.mark.slow
def test_a_run_survives_every_fault(tmp_path: Path) -> None:
    done = start(tmp_path)
    assert done.returncode == 0, done.stdout
