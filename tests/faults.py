"""Lets each file operation of a whole run fail in turn, starts it again, and compares it with a run that met no fault.

    python -m tests.faults                        every operation, with every fault: hours
    python -m tests.faults --alike                one of those that differ in numbers alone: half an hour
    python -m tests.faults --times 30 --seed 1    some of them

A shim in C, preloaded, counts what a run with its circuits and its report does to the files of its folder, and answers
one operation with an error. Then the run must have ended with the system's words in a line, or have gone on; what is
listed must be whole; and the same command, without a fault, must end with the bits of a run that nothing befell.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from pipeline.runs.manifest import Manifest
from pipeline.runs.metrics import read_history
from tests.kills import PRELOAD, differences
from tests.tiny import RECIPE, ROOT, run_here, write_recipe

TEXT = RECIPE.replace("max_steps: 24", "max_steps: 6").replace("save_steps: 6", "save_steps: 2\nsave_total_limit: 1")
TEXT = TEXT.replace("eval_steps: 6", "eval_steps: 2").replace("logging_steps: 3", "logging_steps: 1")
TEXT += "circuits: {logit_lens: {steps: last, pairs: 4}}\n"
SAVED_EVERY = 2
FAULTS = {
    "EIO": (errno.EIO, 0),
    "ENOSPC": (errno.ENOSPC, 0),
    "short write": (errno.ENOSPC, 1),
    "read-only from then on": (errno.EROFS, 2),
}
SHIM = Path(__file__).with_suffix(".c")


def build(folder: Path) -> Path:
    """The shim as a library."""
    library = folder / "faults.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SHIM), "-ldl"], check=True)
    return library


def start(folder: Path, *words: str, capture: bool = True) -> subprocess.CompletedProcess[str]:
    """This module in a process of its own, with the shim preloaded."""
    library = build(folder)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.faults", "--library", str(library), *words]
    return subprocess.run(command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE if capture else None)


def in_child(action: Callable[[], int], log: Path) -> int:
    """The status of an action in a process that is forked from this one, which has imported all that is slow."""
    child = os.fork()
    if child == 0:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        status = 99
        try:
            status = action()
            sys.stdout.flush()
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Enumeration:
    """Runs of one recipe in a folder, each with one operation that fails."""

    def __init__(self, folder: Path, library: Path):
        self.folder, self.recipe, self.straight = folder, write_recipe(folder, TEXT), folder / "straight"
        self._shim = ctypes.CDLL(str(library))
        self._shim.failed.restype = self._shim.recorded.restype = ctypes.c_char_p
        for module in PRELOAD:
            if module != "deepspeed":
                __import__(module)
        assert self._run(self.straight) == 0, self._log.read_text()  # fills the cache of corpora
        assert self._run(folder / "counted") == 0
        self.operations = (folder / "recorded").read_text().splitlines()

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _run(self, run: Path, number: int = 0, fault: str = "EIO") -> int:
        def act() -> int:
            error, how = FAULTS[fault]
            self._shim.arm(str(run).encode(), ctypes.c_long(number), error, how)
            try:
                return run_here(self.recipe, "--output_dir", str(run))
            finally:
                what = self._shim.failed().decode()
                (self.folder / "failed").write_text(what)
                if not number:
                    (self.folder / "recorded").write_text(self._shim.recorded().decode())

        return in_child(act, self._log)

    def cases(self, alike: bool = False) -> list[tuple[int, str]]:
        """Operation and fault; a short write is one of writes. `alike`: one of those that differ in numbers alone."""
        found: dict[tuple[str, str], int] = {}
        for number, what in enumerate(self.operations, 1):
            kind = re.sub(r"\.draft-[0-9a-f]+|[0-9]+", "#", what) if alike else f"{number} {what}"
            for fault in FAULTS:
                if fault != "short write" or what.startswith(("write ", "pwrite ")):
                    found[kind, fault] = number
        return sorted((number, fault) for (_, fault), number in found.items())

    def attempt(self, number: int, fault: str) -> str | None:
        """What goes wrong when this operation fails; None where nothing does."""
        run = self.folder / "run"
        status, said = self._run(run, number, fault), self._log.read_text()
        what = (self.folder / "failed").read_text()
        problem = self._judged(run, status, said, fault) or self._again(run)
        subprocess.run(["rm", "-rf", *map(str, self.folder.glob("run*"))], check=True)
        return problem and f"operation {number}, {what}, {fault}: {problem}"

    def _judged(self, run: Path, status: int, said: str, fault: str) -> str | None:
        if status not in (0, 1, 2) or "Traceback" in said:
            return f"status {status}: {said[-1500:]}"
        # Of torch's archives C++ says no more than the second.
        words = (os.strerror(FAULTS[fault][0]), "writing failed")
        # A library's notice to standard output, which is buffered in a file, may come after the last line of ours.
        ours = [line for line in said.strip().splitlines() if not line.startswith("[INFO] ")]
        if status and not any(word in ours[-1] for word in words):
            return f"the last line does not say what failed: {said[-500:]}"
        if not run.exists():
            return None
        manifest = Manifest.load(run)
        for tier in (manifest.kept, manifest.resumable):
            for entry in tier.values():
                if damage := entry.damage(run):
                    return f"{entry.path} is listed: {damage}"
        return None

    def _again(self, run: Path) -> str | None:
        last = max((line["step"] for line in read_history(run)), default=0) if run.exists() else 0
        status, said = self._run(run), self._log.read_text()
        if status:
            return f"the run after it ended with {status}: {said[-1500:]}"
        resumed = re.search(r"resumes after step (\d+)", said)
        began = int(resumed[1]) if resumed else 0
        if "is finished" not in said and began < last - 2 * SAVED_EVERY:
            return f"it had come to step {last}, and went on from {began}: {said[-500:]}"
        return "; ".join(differences(run, self.straight)) or None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--times", type=int, help="so many, drawn at random (all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alike", action="store_true", help="one of those operations that differ in numbers alone")
    parser.add_argument("--library", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="groklab-faults-") as folder:
        if chosen.library is None:
            done = start(Path(folder), *sys.argv[1:], capture=False)
            return done.returncode
        runs = Enumeration(Path(folder), chosen.library)
        cases = runs.cases(chosen.alike)
        if chosen.times is not None:
            cases = random.Random(chosen.seed).sample(cases, min(chosen.times, len(cases)))
        bad = 0
        for number, fault in cases:
            if problem := runs.attempt(number, fault):
                bad += 1
                print(problem, flush=True)
    survived = f"{len(cases) - bad} of {len(cases)} faults survived"
    print(f"{len(runs.operations)} operations, {len(runs.cases())} faults; {survived}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
