"""What a benchmark says beside its numbers: machine, versions, command; and the JSON that it leaves behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from pipeline.runs.environment import describe_environment

FOLDER = Path("runs") / "benchmarks"


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


def write(name: str, found: Any) -> Path:
    """Writes `runs/benchmarks/<name>-<cpu or cuda>.json` with what was found, on which machine and by which command."""
    path = FOLDER / f"{name}-{'cuda' if torch.cuda.is_available() else 'cpu'}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**describe_environment(), "processor": processor(), "found": found}, indent=2) + "\n")
    return path
