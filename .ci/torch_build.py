"""Say which build of torch pip would install, how large it is, and the smaller way where there is no GPU.

`make` runs it before anything is fetched, by the Python of the new environment; it needs nothing but pip, fetches no
package, and never fails: where pip cannot be asked, it says what usually comes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from shutil import which
from typing import Any, NamedTuple

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
FIRST = (23, 3)  # pip since which a rehearsal reads what a package says of itself, and leaves the package where it is
CUDA = re.compile(r"(nvidia|cuda|triton)\b", re.IGNORECASE)
SIZES = {"CUDA": "about 3 GB to fetch, 5.5 GB on the disk", "CPU": "about 0.2 GB to fetch, 0.8 GB on the disk"}
WAIT = 10  # seconds in which a person can stop it


class Build(NamedTuple):
    """A build of torch: its version, and CUDA or CPU."""

    version: str
    kind: str


def ask_pip(constraints: Path = CONSTRAINTS) -> Build | None:
    """What pip would install, or None where it cannot tell without fetching it."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    said = subprocess.run([*command, "--version"], capture_output=True, text=True)
    found = re.match(r"pip (\d+)\.(\d+)", said.stdout)
    if not found or (int(found[1]), int(found[2])) < FIRST:
        return None
    command += ["install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-"]
    said = subprocess.run([*command, "--constraint", str(constraints), "torch"], capture_output=True, text=True)
    try:
        (package,) = json.loads(said.stdout)["install"]
        return build_of(package["metadata"])
    except (ValueError, KeyError):  # no network, say; pip tells why when it is to install it
        return None


def build_of(metadata: dict[str, Any], system: str = sys.platform) -> Build:
    """The build, from what a package says of itself; one that needs NVIDIA's libraries on Linux is that for CUDA."""
    needs = [need for need in metadata.get("requires_dist", ()) if CUDA.match(need)]
    return Build(metadata["version"], "CUDA" if needs and system == "linux" else "CPU")


def has_gpu() -> bool:
    return which("nvidia-smi") is not None or Path("/dev/nvidia0").exists()


def lines(build: Build | None, gpu: bool, system: str = sys.platform) -> list[str]:
    """What to say before torch is fetched."""
    if build is None and system != "linux":
        build = Build("", "CPU")
    if build is not None and (build.kind == "CPU" or gpu):
        return [f"torch{build.version and ' '}{build.version} comes as its {build.kind} build: {SIZES[build.kind]}"]
    version, would = (build.version, "would come") if build else ("", "usually comes")
    return [
        f"torch{version and ' '}{version} {would} here as its CUDA build: {SIZES['CUDA']}"
        + ("" if gpu else ", and no NVIDIA GPU is to be seen"),
        f"without a GPU its CPU build does: {SIZES['CPU']}. For it stop this (Ctrl-C), and begin again with",
        "  make grok PIP_EXTRA_INDEX_URL=URL",
        "where URL is the index of CPU builds that pytorch.org names, under Get Started, for pip and CPU",
    ]


def main() -> int:
    """Say it, and leave a person time to stop where the large build comes for nothing; returns 0."""
    print("asking pip which build of torch comes here", flush=True)
    gpu = has_gpu()
    said = lines(ask_pip(), gpu)
    print(*said, sep="\n", flush=True)
    if len(said) > 1 and not gpu and sys.stdin.isatty() and "CI" not in os.environ:
        print(f"it goes on in {WAIT} seconds", flush=True)
        time.sleep(WAIT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
