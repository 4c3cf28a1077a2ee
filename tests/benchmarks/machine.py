"""What a benchmark says beside its numbers: machine, versions, command; and the JSON that it leaves behind."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from pipeline.runs.environment import describe_environment

FOLDER = Path("runs") / "benchmarks"
LINES = "BENCH_LINES"  # which names the file that lines of the table are noted in


def device() -> torch.device:
    """The GPU where there is one, which is then what is measured, and otherwise one thread of the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(1)
    return torch.device("cpu")


def processor() -> str:
    """The name of the CPU, as the kernel has it."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else "unknown"


def note(case: str, ours: float, against: str, theirs: float, unit: str, share: float | None = None) -> None:
    """Notes a line for the table of all benchmarks; the lesser of ours and theirs is the better one.

    Args:
        case: what is measured.
        ours: its time, or bytes.
        against: the rival, measured in the same run, and `theirs`, what it takes.
        unit: of both, such as `s`.
        share: of the floor that ours reaches.
    """
    if LINES in os.environ:
        line = {"case": case, "ours": ours, "against": against, "theirs": theirs, "unit": unit}
        with open(os.environ[LINES], "a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "ratio": theirs / ours, "share": share}) + "\n")


def write(name: str, found: Any) -> Path:
    """Writes `runs/benchmarks/<name>-<cpu or cuda>.json` with what was found, on which machine and by which command."""
    path = FOLDER / f"{name}-{'cuda' if torch.cuda.is_available() else 'cpu'}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**describe_environment(), "processor": processor(), "found": found}, indent=2) + "\n")
    return path
