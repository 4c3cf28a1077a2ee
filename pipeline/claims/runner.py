"""Runs what is missing of a claim, as a sweep does, and takes its numbers of what is finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.claims.base import Claim, Found, Measured
from pipeline.config.outside import read_here
from pipeline.config.registry import room_name
from pipeline.runs.folder import RunFolder
from pipeline.sweep.checking import check
from pipeline.sweep.grid import Point
from pipeline.sweep.jobs import run_all
from pipeline.utils.errors import RecipeError
from pipeline.utils.paths import folder_name
from pipeline.utils.shipped import RECIPES

Points = dict[str, list[Point]]


def default_folder(claim: Claim) -> Path:
    """Where the runs of a claim at its budget lie."""
    return Path("runs") / "claims" / f"{room_name(claim)}-{claim.budget}"


def recipe_path(claim: Claim) -> Path:
    return RECIPES / f"{claim.recipe}.yaml"


def points_of(claim: Claim, folder: Path) -> Points:
    """The runs of a claim by arm, one for each seed; every recipe has been read and checked.

    Raises:
        RecipeError: when the claim has no such budget, or at a mistake in an arm.
    """
    if claim.budget != "smoke" and claim.budget not in claim.costs:
        allowed = ", ".join(["smoke", *claim.costs])
        raise RecipeError("--budget", f"{room_name(claim)} has no budget {claim.budget}; allowed: {allowed}")
    found: Points = {}
    for arm, overrides in claim.arms().items():
        found[arm] = []
        for seed in claim.seeds:
            name = _folder(arm, seed)
            homes = {f"{{{other}}}": str(folder / _folder(other, seed)) for other in found}
            words = [f"--{key}={_with(homes, value)}" for key, value in {**overrides, "seed": str(seed)}.items()]
            words += [f"--output_dir={folder / name}", f"--run_name={room_name(claim)} {arm} seed {seed}"]
            recipe = read_here(recipe_path(claim), words)
            found[arm].append(Point(name, recipe))
    return found


def _folder(arm: str, seed: int) -> str:
    return folder_name({"arm": arm, "seed": str(seed)})


def _with(homes: Mapping[str, str], value: str) -> str:
    """A value with the folders of the runs that it names."""
    for name, home in homes.items():
        value = value.replace(name, home)
    return value


def run_missing(claim: Claim, points: Points, jobs: int) -> int:
    """Trains what is not finished, `jobs` runs at a time; returns the exit status, as a sweep's.

    An arm that names others is run after them.
    """
    status = 0
    for arms in rounds(claim):
        status = run_all([point for arm in arms for point in points[arm]], jobs)
        if status:
            break
    return status


def check_missing(claim: Claim, points: Points, jobs: int) -> tuple[list[str], bool]:
    """What the runs would take here, a line for each, and whether the disk has room for them.

    Those of arms that go on from others are left out until these are finished.
    """
    first, *later = rounds(claim)
    ready = list(first)
    while later and all(point.is_finished for arm in ready for point in points[arm]):
        ready += later.pop(0)
    lines, fits = check([point for arm in ready for point in points[arm]], jobs)
    if later:
        waiting = sum(len(points[arm]) for arms in later for arm in arms)
        lines.insert(-1, f"runs that go on from these, and are not checked: {waiting}")
    return lines, fits


def rounds(claim: Claim) -> list[list[str]]:
    """The arms, each in a round after those of the arms that it names."""
    number: dict[str, int] = {}
    for arm, overrides in claim.arms().items():
        named = [other for other in number if any(f"{{{other}}}" in value for value in overrides.values())]
        number[arm] = max((number[other] + 1 for other in named), default=0)
    return [[arm for arm in number if number[arm] == each] for each in range(max(number.values()) + 1)]


def measured(claim: Claim, points: Points) -> Found:
    """The numbers of the finished runs."""
    return Found({arm: _measured(claim, runs) for arm, runs in points.items()}, len(claim.seeds))


def _measured(claim: Claim, points: Sequence[Point]) -> list[Measured]:
    found = []
    for seed, point in zip(claim.seeds, points):
        if point.is_finished:
            run = RunFolder.read(point.folder)
            found.append(Measured(seed, run, claim.measure(run)))
    return found
