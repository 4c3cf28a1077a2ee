"""Compiles the C++ of `native/` once for a machine, and loads it.

The library needs a compiler and nothing else: no header and no symbol of torch, so that it is compiled in a few seconds
and outlives torch's versions. It lies in the cache, named by a hash of its source, of how it is compiled, and of the
processor, whose instructions it uses.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.corpora.store import cache_home
from pipeline.utils.errors import RecipeError, in_one_line
from pipeline.utils.log import log

SOURCE = Path(__file__).parent / "native"
# No -ffast-math: what is not a number is to stay so. The two flags that are there let loops with square roots and
# comparisons become vector instructions, and change no number.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-shared")
COMPILER = "g++"  # whose OpenMP is the one that torch brings


class NotCompiledError(Exception):
    """There is no library, for a reason that is said in a line."""


def why_not_compilable() -> str | None:
    """What this machine lacks."""
    if not sys.platform.startswith("linux"):
        return f"it is written for Linux, and this is {platform.system()}"
    return None if shutil.which(COMPILER) else f"there is no {COMPILER}"


def load() -> ctypes.CDLL:
    """The library, compiled if it is not in the cache.

    Raises:
        NotCompiledError: when it cannot be compiled, kept or loaded.
    """
    reason = why_not_compilable()
    if reason:
        raise NotCompiledError(reason)
    try:
        home = cache_home() / "kernels"
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = home / f"step-{_key()}.so"
        if not path.exists():
            _compile(path)
        _check_owner(home, path)
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # torn by a full disk or a crash
            _compile(path)
            return ctypes.CDLL(str(path))
    except (OSError, RecipeError, subprocess.SubprocessError) as error:
        raise NotCompiledError(in_one_line(error)) from None


def _key() -> str:
    """A hash of what decides the code and whether this processor can run it."""
    digest = hashlib.sha256()
    for file in sorted(SOURCE.iterdir()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    version = subprocess.run([COMPILER, "--version"], capture_output=True, check=True, timeout=60).stdout
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0].splitlines()
    except OSError:
        lines = []
    processor = [line for line in lines if line.startswith(("vendor_id", "model", "flags", "Features", "CPU "))]
    digest.update("\0".join((*FLAGS, version.decode(errors="replace"), platform.machine(), *processor)).encode())
    return digest.hexdigest()[:16]


def _compile(path: Path) -> None:
    """Puts the library in its place once it is whole; processes that do so at once do no harm to each other."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder) / path.name
        command = [COMPILER, *FLAGS, "-o", str(draft), str(SOURCE / "step.cpp")]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=600)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or [""]
            raise NotCompiledError(f"{COMPILER} failed: {said[0]}")
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    log.info(f"the training step was compiled for this machine, once, in {time.perf_counter() - started:.0f} s")


def _check_owner(*paths: Path) -> None:
    """A library is code: it is loaded only from where nobody else can put one.

    Raises:
        NotCompiledError: when somebody else may write there.
    """
    for path in paths:
        facts = path.stat()
        if facts.st_uid != os.getuid() or facts.st_mode & 0o022:
            raise NotCompiledError(f"others may write to {path}")
