"""Whether every folder of a run that its manifest lists is as it was written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.runs.checkpoints import KeepSchedule, unlisted
from pipeline.runs.folder import read_resolved
from pipeline.runs.layout import RECIPE
from pipeline.runs.manifest import Manifest
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.inside import exists

MOST_STEPS = 1_000_000  # that a schedule is compared with


def verify(run: Path) -> Iterator[tuple[str, str | None]]:
    """Each listed folder with what is wrong with it, None where nothing is; then what is missing, or not listed."""
    manifest = Manifest.load(run)
    foreign = manifest.breaks()
    for tier in (manifest.kept, manifest.resumable):
        for step in sorted(tier):
            entry = tier[step]
            yield entry.path, entry.damage(run) or foreign.pop(entry.path, None)
    yield from sorted(foreign.items())  # entries of steps that were pruned
    for step in _missing(run, manifest):
        yield f"steps/step{step}", "is missing: the recipe keeps this step, and the manifest does not list it"
    for path in unlisted(run, manifest):
        yield str(path.relative_to(run)), "is not in the manifest: torn, or not written by this run"


def _missing(run: Path, manifest: Manifest) -> list[int]:
    """Steps up to the newest one that the recipe's schedule names and that are not there."""
    if not exists(run, RECIPE):
        return []
    last = max([*manifest.kept, *manifest.pruned, *manifest.resumable], default=-1)
    try:
        block = read_resolved(run).get("checkpoints") or {}
        schedule = KeepSchedule(**{**block, "every": tuple((every, until) for every, until in block.get("every", ()))})
        count = sum(last // every for every, _ in schedule.every)
    except (TypeError, ValueError, AttributeError, ParameterError):
        raise RecipeError(str(run / RECIPE), "is damaged: its checkpoints block is no schedule") from None
    if count > MOST_STEPS:
        raise RecipeError(str(run), f"its schedule and its last step, {last}, make more than {MOST_STEPS:,} kept steps")
    return sorted(step for step in schedule.steps(last) if step <= last and step not in manifest.chain())
