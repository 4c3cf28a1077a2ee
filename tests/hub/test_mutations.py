"""A repository may hold anything: `hub pull` and `hub verify` end in a result or a line, and write where they are told.

The files of a run that was pushed are damaged on a server on loopback, as `tests.mutations` damages those of a folder.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.hub.__main__ import main
from pipeline.runs.manifest import Manifest
from tests.hub_server import HubServer, hub_server, in_this_process
from tests.hub_store import Blob, Tree
from tests.mutations import MUTATIONS, OF_FILES, call
from tests.tiny import tree

REPO, STEPS = "user/x", "0,8"
KINDS = (*OF_FILES, "missing", "added", "listed as huge")
NAMES = (
    "evil.py",
    "../evil",
    "/tmp/evil",
    "..\\evil",
    "steps/step8/evil",
    "\x1b[2Jevil",
    "x" * 5000,
    ".hidden",
    "a\nb",
)


@pytest.fixture(scope="module")
def pushed(kept_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, HubServer]]:
    """A run, and the server that two of its steps were pushed to."""
    run = Path(shutil.copytree(kept_run, tmp_path_factory.mktemp("pushed") / "run"))
    with hub_server() as server, in_this_process(server) as hub:
        assert hub("push", run, "--repo", REPO, "--steps", STEPS).status == 0
        yield run, server


def mutated(server: HubServer, revision: str, place: int, kind: str, draws: random.Random) -> tuple[str, Tree]:
    """The name of a file of a revision, and the revision's files with this one damaged."""
    files = dict(server.repos[REPO].tree(revision))
    name = sorted(files)[place % len(files)]
    if kind == "added":
        name = draws.choice(NAMES)
        return name, {**files, name: Blob(b"evil", size=4)}
    if kind == "missing":
        del files[name]
        return name, files
    content, size = server.content(REPO, revision, name), 1 << 50
    if kind != "listed as huge":
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(name).name
            file.write_bytes(content)
            MUTATIONS[kind](file, draws, Path(folder))
            size = file.stat().st_size
            content = file.read_bytes() if size < 1 << 29 else content
    return name, {**files, name: Blob(content, size=size)}


def check(pushed: tuple[Path, HubServer], revision: str, place: int, kind: str, seed: int) -> None:
    run, server = pushed
    repo = server.repos[REPO]
    branches, before = dict(repo.branches), tree(run)
    name, files = mutated(server, revision, place, kind, random.Random(seed))
    repo.commit(revision, files)
    try:
        with tempfile.TemporaryDirectory(prefix="groklab-pull-") as folder:
            target, theirs = Path(folder) / "pulled", Path(folder) / "theirs"
            theirs.write_text("theirs")
            for words in (
                ["pull", REPO, "--output", str(target), "--steps", STEPS],
                ["verify", str(run), "--repo", REPO, "--steps", STEPS],
            ):
                status, printed, problem = call(lambda words=words: main(words))
                where = f"{words[0]} with {revision}: {name!r:.80} {kind} (seed {seed})"
                assert problem is None, (where, problem)
                assert status in (0, 1, 2) and (status != 2 or printed.count("\n") == 1), (where, status, printed)
                assert "Traceback" not in printed and "\x1b" not in printed and len(printed) < 1000, (where, printed)
                if (words[0], status) == ("pull", 0):  # what was fetched is what the manifest says
                    kept = Manifest.load(target).kept
                    assert sorted(kept) == [0, 8] and not any(entry.damage(target) for entry in kept.values()), where
            assert {path.name for path in Path(folder).iterdir()} <= {"pulled", "theirs"} and not Path("evil").exists()
            assert theirs.read_text() == "theirs" and not any(path.is_symlink() for path in target.rglob("*"))
        assert tree(run) == before and not Path("/tmp/evil").exists()
    finally:
        repo.branches.clear()
        repo.branches.update(branches)


PLACES = st.tuples(st.sampled_from(["main", "step0", "step8"]), st.integers(0, 10**6))
DAMAGE = st.tuples(st.sampled_from(KINDS), st.integers(0, 10**6))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("revision", ["main", "step8"])
def test_a_manifest_that_was_damaged_on_the_hub(revision: str, kind: str, pushed: tuple[Path, HubServer]) -> None:
    place = sorted(pushed[1].repos[REPO].tree(revision)).index("manifest.json")
    check(pushed, revision, place, kind, 0)


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(PLACES, DAMAGE)
def test_any_file_that_was_damaged_on_the_hub(
    pushed: tuple[Path, HubServer], where: tuple[str, int], how: tuple[str, int]
) -> None:
    check(pushed, *where, *how)


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(PLACES, DAMAGE)
def test_many_files_that_were_damaged_on_the_hub(
    pushed: tuple[Path, HubServer], where: tuple[str, int], how: tuple[str, int]
) -> None:
    check(pushed, *where, *how)
