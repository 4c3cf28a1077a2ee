"""Whether a repository on the Hub holds what a run has kept, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.hub.contents import CARD, MAIN, WEIGHTS, revisions
from pipeline.hub.pull import kept_steps
from pipeline.hub.repository import HOUSEKEEPING, Remote, printable
from pipeline.runs.folder import RunFolder


def verify(path: Path, repo: str, *, steps: str = "all", quick: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Each revision with what is wrong with it, nothing where it is as it was kept; then those that are too many.

    Raises:
        HubError: when the repository cannot be read.
    """
    run = RunFolder.read(path)
    remote = Remote(repo)
    pushed = remote.listing(MAIN) or {}
    wanted = revisions(run, kept_steps(run.manifest, steps), repo, None)
    branches = remote.branches()
    for name, files in wanted.items():
        # A card may tell of a dataset, and figures are drawn again with every report: both are no results.
        drawn = [file for file in files if file == CARD or file.startswith("figures/")]
        yield name, remote.damage(name, files, read_back=not quick, drawn=drawn)
    if MAIN not in wanted:
        yield from ((MAIN, [line]) for line in _too_early(pushed))
    for name in branches:
        if not re.fullmatch(r"step[0-9]+", name):
            if name != MAIN:
                yield printable(name), ["is no revision of a run"]
        elif int(name[4:]) not in run.manifest.kept:
            yield name, ["the manifest has no such step"]


def _too_early(pushed: Mapping[str, object]) -> Iterator[str]:
    """What is wrong with `main` before a run's end."""
    if WEIGHTS in pushed:
        yield "it holds weights, and the run is not finished"
    elif held := sorted(pushed.keys() - {HOUSEKEEPING}):
        yield f"{printable(held[0])} does not belong to it"
