"""A run folder may hold anything: every command ends in a result or a line; see `tests.mutations`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.mutations import COMMANDS, MUTATIONS, attempt, plant, targets


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return plant(tmp_path_factory.mktemp("mutations"))


# What a search has found.
FOUND = [
    ("steps/step8/model.safetensors", "link to itself", "verify"),
    ("report.md", "folder", "circuits"),
]

MUTATED = st.tuples(
    st.integers(0, 10**6), st.sampled_from(sorted(MUTATIONS)), st.sampled_from(COMMANDS), st.integers(0, 10**6)
)


def check(planted: tuple[Path, Path], mutated: tuple[int, str, str, int]) -> None:
    recipe, run = planted
    place, mutation, command, seed = mutated
    names = targets(run)
    problem = attempt(recipe, run, names[place % len(names)], mutation, command, seed)
    assert problem is None, problem


@pytest.mark.parametrize(("name", "mutation", "command"), FOUND)
def test_what_was_found_is_taken_well(name: str, mutation: str, command: str, planted: tuple[Path, Path]) -> None:
    recipe, run = planted
    assert attempt(recipe, run, name, mutation, command, 0) is None


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(MUTATED)
def test_every_command_takes_every_folder(planted: tuple[Path, Path], mutated: tuple[int, str, str, int]) -> None:
    check(planted, mutated)


@pytest.mark.slow
@settings(max_examples=3000, suppress_health_check=[HealthCheck.too_slow])
@given(MUTATED)
def test_every_command_takes_many_folders(planted: tuple[Path, Path], mutated: tuple[int, str, str, int]) -> None:
    check(planted, mutated)
