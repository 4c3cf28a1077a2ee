"""What a run ran on: versions, revision, device, command."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipeline.utils import seeds

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "deepspeed", "numpy", "tokenizers", "safetensors")


def describe_environment(in_force: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """Return the facts of environment.json, with those of a run that is in force; torch must be importable."""
    import torch

    gpu, threads = torch.cuda.is_available(), torch.get_num_threads()
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [Path(sys.executable).name, *sys.argv],
        "revision": revision(),
        "host": platform.node(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if gpu else f"CPU, {threads} thread{'s' * (threads > 1)}",
        "random_streams": seeds.VERSION,
        "processes": 1,
        **in_force,
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return where two starts of a run differ in what can change its bits, such as `torch 2.12.0 -> 2.13.0`."""
    parts = [({key: there.get(key) for key in keys}, here) for there, here, keys in (
        (before, now, ("device", "processes", "engine", "precision", "step", "python")),
        (before.get("packages") or {}, now["packages"], PACKAGES),
    )]  # fmt: skip
    return [
        f"{key} {was} -> {here.get(key)}"
        for there, here in parts
        for key, was in there.items()
        if was is not None and was != here.get(key)
    ]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def revision() -> str | None:
    """Return the git commit of this code, with `+changes` where the working tree differs; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, check=True, encoding="utf-8"
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, check=True, encoding="utf-8"
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed else "")
