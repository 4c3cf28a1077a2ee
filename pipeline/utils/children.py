"""Runs that this process starts, each a main job in a process of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pipeline.utils.launcher import NEEDED, SWEEP, WAITS

# What the environment says of one run, and would make one of them all; and of its place among several processes.
OF_ONE_RUN = ("GROKLAB_STATUS", "WANDB_RUN_ID", "WANDB_NAME", WAITS, *NEEDED)
BY_LAUNCHER = ("TORCHELASTIC_", "GROUP_", "ROLE_", "LOCAL_WORLD_SIZE")


def environment_of_child(waits: bool = False) -> dict[str, str]:
    """Return the environment in which a started run finds this package, and ends when this process dies.

    Args:
        waits: Whether the run waits where another process has its folder, as a stage that several runs need does.
    """
    found = {
        name: value for name, value in os.environ.items() if name not in OF_ONE_RUN and not name.startswith(BY_LAUNCHER)
    }
    found[SWEEP] = str(os.getpid())
    if waits:
        found[WAITS] = "1"
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**found, "PYTHONPATH": os.pathsep.join(paths)}


def end_children(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Lets runs end their step and save; a second signal to this process ends them at once."""
    for process in processes:
        process.terminate()
    try:
        for process in processes:
            process.wait()
    except BaseException:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        raise
