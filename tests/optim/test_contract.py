"""Everything of the `optimizer:` block: it trains something else than the plain recipe, and resumes bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.registry import load, names
from pipeline.optim.base import check_sharding, split
from pipeline.utils.errors import ParameterError
from tests.test_run import FINAL, same_weights
from tests.tiny import run_here, write_recipe

NAMES = names("optim")


@pytest.mark.parametrize("words", [*(f"{{{name}: {{}}}}" for name in NAMES), "{grokfast: {average: ma, window: 5}}"])
def test_a_run_with_it_resumes_to_the_same_weights(words: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    assert run_here(recipe, "--optimizer", words, "--output_dir", str(straight)) == 0
    assert run_here(recipe, "--optimizer", words, "--output_dir", str(parts), "--max_steps", "13") == 0
    assert run_here(recipe, "--optimizer", words, "--output_dir", str(parts)) == 0
    assert same_weights(parts / FINAL, straight / FINAL)
    assert run_here(recipe, "--output_dir", str(tmp_path / "plain")) == 0
    assert not same_weights(tmp_path / "plain" / FINAL, straight / FINAL)


def test_it_is_part_of_what_a_run_folder_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path)
    assert run_here(recipe, "--max_steps", "2") == 0
    assert run_here(recipe, "--optimizer.grokfast.lamb", "3") == 2
    assert "optimizer.grokfast.lamb: null there, 3.0 here" in capsys.readouterr().err


def test_sharded_gradients_are_refused() -> None:
    for name in NAMES:
        kind: Any = load("optim", name, "optimizer")
        check_sharding({name: kind.tiny()}, sharded=False)
        with pytest.raises(ParameterError, match=f"optimizer.{name}: needs whole gradients"):
            check_sharding({name: kind.tiny()}, sharded=True)
    check_sharding({}, sharded=True)


def test_changes_come_in_one_order_and_remember_nothing_of_another_run() -> None:
    made: Any = {name: load("optim", name, "optimizer").tiny() for name in ("orthogonal", "grokfast")}
    first, second = (split(made)[1] for _ in range(2))
    assert list(first) == list(second) == ["grokfast", "orthogonal"]
    assert all(first[name] is not second[name] for name in first)
