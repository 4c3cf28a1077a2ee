"""The machine: its card, driver and versions, and what a large matrix product and a copy reach on it.

python tests/benchmarks/gpu_speed.py
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import torch
from baselines import Setting, Size
from bench_step import FEW, machine_speed
from machine import device, write


def driver() -> str | None:
    """Card, driver and memory in nvidia-smi's words; None where there is none."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def main() -> int:
    by_torch, by_onednn, copies = machine_speed(Setting.of(Size(1, 32, 4, 32, FEW), device()))
    found: dict[str, Any] = {"driver": driver(), "cuda": torch.version.cuda}
    found |= {"flop_per_second": max(by_torch, by_onednn), "copied_bytes_per_second": copies}
    print(write("machine", found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
