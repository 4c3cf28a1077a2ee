"""Set up before any test imports torch or transformers: offline, a cache of its own, one thread per process."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.hub_server import Hub, HubServer
    from tests.slurm_cluster import Cluster

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "offline"
# Workers of pytest-xdist share the two cores; a run that is compared bit by bit needs the same threads everywhere.
os.environ["OMP_NUM_THREADS"] = "1"
_cache = tempfile.TemporaryDirectory(prefix="groklab-tests-")
os.environ["GROKLAB_CACHE"] = _cache.name
# What is compiled for this machine is kept from one run of the tests to the next.
_kernels = Path(tempfile.gettempdir()) / f"groklab-tests-kernels-{os.getuid()}"
_kernels.mkdir(mode=0o700, exist_ok=True)
(Path(_cache.name) / "kernels").symlink_to(_kernels)

# The same examples every time; what a search finds becomes an example of its own.
settings.register_profile("steady", derandomize=True, database=None, deadline=None)
settings.load_profile("steady")


# Those that take a minute or more begin first, so that none of them is left alone at the end.
LONG = ("test_readme.py", "test_contributing.py", "test_own_facts_page.py", "test_gpu_bench.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bases gpt2/ and gpt_neox/, and with replay.txt and held_out.txt."""
    from tests.bases import make_base, make_texts

    folder = tmp_path_factory.mktemp("bases")
    for family in ("gpt2", "gpt_neox"):
        make_base(folder / family, family)
    make_texts(folder)
    return folder


@pytest.fixture(scope="session")
def kept_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with 30 kept steps, 0 to 29."""
    from pipeline.runs.manifest import Manifest
    from tests.hub_server import MANY
    from tests.tiny import run_here, write_recipe

    folder = tmp_path_factory.mktemp("pushed")
    assert run_here(write_recipe(folder, MANY), "--callbacks.console.style", "off") == 0
    assert len(Manifest.load(folder / "run").kept) == 30
    return folder / "run"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of 8 steps, with its finished run beside it."""
    from tests.tiny import SHORT, run_here, write_recipe

    recipe = write_recipe(tmp_path_factory.mktemp("finished"), SHORT)
    assert run_here(recipe) == 0
    return recipe


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Slurm of two nodes."""
    from tests.slurm_cluster import Cluster

    cluster = Cluster()
    try:
        print(f"Slurm: installed in {cluster.install():.1f} s, two nodes idle after {cluster.start():.1f} s")
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip(f"a disk that fills up is a small mount, which is not allowed here: {made.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def server() -> Iterator[HubServer]:
    from tests.hub_server import hub_server

    with hub_server() as server:
        yield server


@pytest.fixture
def hub(server: HubServer) -> Iterator[Hub]:
    """The hub command in this process, which talks to `server`."""
    from tests.hub_server import in_this_process

    with in_this_process(server) as run:
        yield run
