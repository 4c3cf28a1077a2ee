"""What is asked of the C libraries is what they then do."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from pipeline.kernels.host import wait_briefly
from tests.tiny import run_process, write_recipe

# Memory of this process, in MB, after a block of 20 MB was given back.
GIVEN_BACK = """
import ctypes, os, sys
from pipeline.kernels.host import keep_memory

def held():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20

c = ctypes.CDLL(None)
c.malloc.restype, c.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
if sys.argv[1] == "keep":
    keep_memory()
before = held()
block = c.malloc(20 << 20)
ctypes.memset(block, 1, 20 << 20)
c.free(block)
print(held() - before)
"""


# The main job until torch is imported, when OpenMP reads what it is asked.
UNTIL_TORCH = """
import os, sys
from pipeline.run import main

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch())
main(sys.argv[1:])
"""


@pytest.mark.parametrize("word", [(), ("--check",)], ids=["run", "check"])
def test_threads_of_the_main_job_wait_briefly(
    word: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):  # which a test in this process may have set
        monkeypatch.delenv(name, raising=False)
    result = run_process("-c", UNTIL_TORCH, str(write_recipe(tmp_path)), "--output_dir", str(tmp_path / "run"), *word)
    assert result.stdout.splitlines()[-1] == "PASSIVE", result.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory")
@pytest.mark.parametrize(("how", "least", "most"), [("keep", 18, 30), ("leave", -5, 5)])
def test_memory_that_is_given_back_stays(how: str, least: int, most: int) -> None:
    result = run_process("-c", GIVEN_BACK, how)
    assert least <= int(result.stdout) <= most, result.stderr


def test_how_threads_wait_is_the_users_choice_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    wait_briefly()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE" and int(os.environ["GOMP_SPINCOUNT"]) < 10_000
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_briefly()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE" and "GOMP_SPINCOUNT" not in os.environ
