"""Runs of the Hub in the cache: what is small at once, the weights of a step when they are asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from pipeline.corpora.store import cache_home
from pipeline.runs.layout import RECIPE
from pipeline.runs.manifest import Manifest


def cached(repo: str) -> Path:
    """The folder that a repository is pulled into."""
    return cache_home() / "hub" / repo.replace("/", "--")


def is_run(repo: str) -> bool:
    """Whether a repository is a run that was pushed: by the cache, or by what its `main` holds."""
    from pipeline.hub.repository import HubError, Remote

    if (cached(repo) / RECIPE).is_file():
        return True
    try:
        return RECIPE in (Remote(repo).listing("main") or {})
    except HubError:  # of whoever asks for its model
        return False


def fetch(repo: str, step: int | None = None) -> list[int]:
    """Bring a repository's run and one of its steps (None: the last) into the cache; returns the steps it has.

    Steps that are there are not downloaded again, and a download that broke off goes on. Where the Hub cannot be
    reached, what is in the cache has to do, with a warning.

    Raises:
        HubError: when it is no run, lacks the step, or cannot be reached and the cache does not have that either.
    """
    from pipeline.hub.pull import STEP, pull
    from pipeline.hub.repository import HubError, Remote

    path = cached(repo)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in pull(repo, path, steps="last" if step is None else str(step)):
            pass
        names: Iterable[str] = Remote(repo).branches()
    except HubError as error:
        kept, is_away = _kept_steps(path), any(words in str(error) for words in ("cannot be reached", "HF_HUB_OFFLINE"))
        if not is_away or not kept or step not in (None, *kept):
            raise
        warnings.warn(f"{error}; {path} is what was downloaded before", stacklevel=3)
        return kept
    pushed = {int(name[4:]) for name in names if STEP.fullmatch(name)}
    return sorted(pushed.union(_kept_steps(path)))


def _kept_steps(path: Path) -> list[int]:
    return sorted(Manifest.load(path).kept) if (path / RECIPE).is_file() else []
