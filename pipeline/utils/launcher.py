"""The processes of a run, as a launcher describes them in the environment, and ending without its traceback.

Torch, accelerate and DeepSpeed read RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, each at another time and
each with another answer where one of them is missing. So they are read and checked once, here.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.utils.errors import RecipeError
from pipeline.utils.files import write_text
from pipeline.utils.log import log
from pipeline.utils.signals import REQUEST, SAVED

NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
NEEDED = (*NUMBERS, "MASTER_ADDR", "MASTER_PORT")
# The sizes that mpirun and Slurm's PMI give, which accelerate takes for those of a run on CPU.
MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
SWEEP = "GROKLAB_SWEEP"  # which tells a run the process id of the sweep that started it
WAITS = "GROKLAB_WAITS"  # which tells a run to wait for another one that has its folder
START = "start with accelerate launch"
# Seconds for the first process of a machine to say what is wrong: a launcher ends all of them once one has failed.
LAST_WORDS = 10.0
LAST_SECONDS = 5.0  # that a process has to end by itself once its launcher has died
PR_SET_PDEATHSIG = 1  # of Linux's prctl
# The first words of a launcher's command line: Python, its options, and a program or a module.
LAUNCHER = re.compile(
    r"\S*python[\d.]* (-[^mc\s]+ )*"
    r"(\S*/(accelerate|accelerate-launch|torchrun) |-m (accelerate\.commands|torch\.distributed|deepspeed\.launcher)\.)"
)


@dataclass(frozen=True)
class Processes:
    """Which of how many processes this one is."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0


def processes(environ: Mapping[str, str] = os.environ) -> Processes:
    """This process among those of its run.

    Raises:
        RecipeError: when the variables of a launcher are there in part, or contradict each other.
    """
    numbers = {name: _whole_of(name, environ[name]) for name in NUMBERS if name in environ}
    world = numbers.get("WORLD_SIZE")
    for name in MPI_SIZES:
        if world is None and name in environ and _whole_of(name, environ[name]) > 1:
            raise _error(name, f"{environ[name]} processes were started by MPI, which trains each alone; {START}")
    # Clusters set these two for a job of one process, which needs no launcher.
    if not numbers or numbers in ({"WORLD_SIZE": 1}, {"WORLD_SIZE": 1, "RANK": 0}):
        return Processes()
    missing = [name for name in NEEDED if not environ.get(name, "").strip()]
    if missing:
        there = " and ".join(f"{name} {environ[name]}" for name in numbers)
        unset = " ".join(numbers)
        raise _error(missing[0], f"is missing beside {there}; {START}, or for one process: unset {unset}")
    rank, local, world = numbers["RANK"], numbers["LOCAL_RANK"], numbers["WORLD_SIZE"]
    for name, number, most in (("RANK", rank, world), ("LOCAL_RANK", local, rank + 1)):
        if number >= most:
            raise _error(name, f"{number} is not below {most}, with WORLD_SIZE {world}; {START}")
    if not 0 < _whole_of("MASTER_PORT", environ["MASTER_PORT"]) < 2**16:
        raise _error("MASTER_PORT", f"{environ['MASTER_PORT']} is not a port")
    return Processes(rank, world, local)


def _whole_of(name: str, text: str) -> int:
    if not text.strip():
        raise _error(name, f"is set and empty; {START}, or: unset {name}")
    if not re.fullmatch(r"\s*\d{1,9}\s*", text):
        raise _error(name, f"{text!r} is not a whole number; {START}, or: unset {name}")
    return int(text)


def _error(name: str, message: str) -> RecipeError:
    return RecipeError("environment", f"{name}: {message}")


def is_first() -> bool:
    """Return whether this process speaks for the run; each does where the launcher's variables are the mistake."""
    try:
        return processes().rank == 0
    except RecipeError:
        return True


def speaks() -> bool:
    """Return whether this process says what is wrong for those of its machine, which all find the same."""
    try:
        return processes().local_rank == 0
    except RecipeError:
        return True


def is_launched() -> bool:
    """Return whether this process was started by the launcher of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_under_launcher() -> bool:
    """Return whether a launcher has given this process a place among those of a run, be it the only one."""
    return "LOCAL_RANK" in os.environ or is_launched()


def is_ended() -> bool:
    """Wait for whether the launcher ends this process, as it does once it has seen that another one failed."""
    deadline = time.monotonic() + LAST_WORDS
    while REQUEST.number is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return REQUEST.number is not None


def is_said() -> bool:
    """Return whether another process of this machine has said what is wrong already, and say for this one that it will.

    A process may come long after the one that was to speak has ended their launcher, and then hears no signal. They
    share the folder that torch's launcher has made for their error files.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        with suppress(OSError):
            try:
                (Path(path).parent.parent / "said").open("xb").close()
            except FileExistsError:
                return True
    return False


def tell_status(status: int) -> None:
    """Writes the status of the run into the file that GROKLAB_STATUS names, as launchers make a 1 of every failure."""
    if "GROKLAB_STATUS" in os.environ and is_first():
        path = Path(os.environ["GROKLAB_STATUS"])
        try:
            write_text(path, f"{status}\n")
        except OSError as error:
            log.warning(f"GROKLAB_STATUS: {path} cannot be written: {error.strerror}; it is {status}")


def quiet_torch() -> None:
    """Keeps torch from printing a C++ stack in each process whose peer has ended; to be called before it is imported.

    What it raises then is heard all the same, and the process that ended first has said why. A level of the user's
    stays.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def end_with_parent() -> None:
    """Asks the system for SIGTERM when the launcher or the sweep dies, so that a run does not outlive it unseen."""
    sweep = os.environ.pop(SWEEP, None)
    if sys.platform == "linux" and (is_launched() or sweep):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if sweep and int(sweep) != os.getppid():  # it has died before that was asked
            os.kill(os.getpid(), signal.SIGTERM)
    if is_launched():
        threading.Thread(target=_watch, args=(os.getppid(),), name="launcher watch", daemon=True).start()


def _watch(launcher: int) -> None:
    """Ends this process some seconds after its launcher, where the signal finds it waiting for others that are gone.

    A wait inside of torch hears no signal. In training there is a step that ends and is saved.
    """
    while os.getppid() == launcher:
        time.sleep(0.5)
    time.sleep(LAST_SECONDS)
    if not REQUEST.in_training:
        os._exit(SAVED)


def end_launcher() -> None:
    """Ends the launcher of this process, which would print its own traceback below the line that says what is wrong.

    Its other processes end with it. The signal is one that launchers do not turn into a traceback either; where it is
    ignored (`recipes/launch.slurm`), or the parent is no launcher, nothing happens.
    """
    if not (is_launched() or "ACCELERATE_DYNAMO_BACKEND" in os.environ):  # which accelerate sets for a single process
        return
    try:
        command = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:
        return
    if LAUNCHER.match(command) and "pipeline" in command:
        sys.stdout.flush()
        sys.stderr.flush()
        with suppress(OSError):
            os.kill(os.getppid(), signal.SIGUSR1)


def end_at_once(reason: str) -> None:
    """Ends this process, whatever it does: its folder belongs to another run now, and nothing more is written to it."""
    sys.stderr.write(f"\n{reason}\n")
    sys.stderr.flush()
    tell_status(1)
    os._exit(1)
