"""A process that is forked from one that has libraries imported is as one that Python has started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forked
from tests.tiny import ROOT

CODE = """
import atexit, os, sys
print("pipeline" in sys.modules, "tests" in sys.modules, sys.argv, sys.path[0], os.getcwd(), os.environ.get("OWN"))
print(sys.stdin.read(), sys.stdout.isatty(), __name__)
import pipeline
print(pipeline.__file__, "torch" in sys.modules)
atexit.register(print, "at its end")
print("said", file=sys.stderr)
{}
"""


@pytest.mark.parametrize(
    "end", ["", "sys.exit(3)", "sys.exit('no')", "raise ValueError('oh')", "os.kill(os.getpid(), 9)"]
)
@pytest.mark.parametrize("how", ["-c", "script", "-m"])
def test_it_is_as_one_that_python_started(how: str, end: str, tmp_path: Path) -> None:
    """But for torch, which is there, and the frames above a mistake."""
    code = CODE.format(end)
    (tmp_path / "what.py").write_text(code)
    words = {"-c": ["-c", code], "script": [str(tmp_path / "what.py")], "-m": ["-m", "what"]}[how]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "GROKLAB_STATUS": str(tmp_path)}
    found = [forked.run(*words, "a", "--b", cwd=tmp_path, env=env, timeout=120) for _ in range(2)][-1]
    real = subprocess.run(
        [sys.executable, *words, "a", "--b"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert found.returncode == real.returncode
    assert found.stdout == real.stdout.replace(f"{Path('pipeline', '__init__.py')} False", "pipeline/__init__.py True")
    assert found.stderr.splitlines()[:1] == real.stderr.splitlines()[:1]
    assert found.stderr.splitlines()[-1:] == real.stderr.splitlines()[-1:]


def test_what_takes_too_long_is_killed(tmp_path: Path) -> None:
    code = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(60)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    forked.run("-c", "", cwd=tmp_path, env=env, timeout=120)
    forked.run("-c", "", cwd=tmp_path, env=env, timeout=120)
    with pytest.raises(subprocess.TimeoutExpired):
        forked.run("-c", code, cwd=tmp_path, env=env, timeout=3)
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # until the one above it has heard of its end
            os.kill(int((tmp_path / "pid").read_text()), 0)
            subprocess.run(["sleep", "0.05"], check=True)
