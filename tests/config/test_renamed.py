"""Flat keys and names of earlier versions: a recipe is told today's, and a run folder goes on with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.config.recipe import read_kept_recipe, read_recipe
from pipeline.config.renamed import MOVED
from pipeline.runs.folder import read_resolved
from tests.tiny import RECIPE, run_here, write_recipe

OLD = {
    "loss": "stablemax", "loss_tokens": "all", "grokfast": "ma", "grokfast_alpha": 0.98, "grokfast_lamb": 3.0,
    "grokfast_window": 7, "orthogonal_gradient": True,
}  # fmt: skip
NEW = (
    "--objective", "{name: next_token, loss: stablemax, tokens: all}",
    "--optimizer", "{grokfast: {average: ma, lamb: 3, window: 7}, orthogonal: {}}",
)  # fmt: skip


def as_before(folder: Path, values: dict[str, object]) -> Path:
    """A recipe as earlier code wrote it into a run folder."""
    recipe = yaml.safe_load(read_recipe(write_recipe(folder)).to_yaml())
    del recipe["objective"], recipe["optimizer"]
    recipe["callbacks"] = {"progress": {"style": "off", "seconds": 2.0}}
    recipe["circuits"] = {"progress": {"least": 0.02, "steps": "all"}}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe, **values}))
    return path


@pytest.mark.parametrize("key", sorted(MOVED))
def test_a_recipe_is_told_the_block(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(write_recipe(tmp_path), f"--{key}", "1") == 2
    said = capsys.readouterr().err
    assert f"{key}: is part of a block now, such as {MOVED[key]}" in said and said.count("\n") == 1
    read_recipe(write_recipe(tmp_path, f"{RECIPE}{MOVED[key]}\n"))  # what it is told can be read


def test_a_kept_recipe_is_read_with_todays_names(tmp_path: Path) -> None:
    old = read_kept_recipe(as_before(tmp_path, OLD))
    new = read_recipe(write_recipe(tmp_path), NEW)
    assert old.objective == new.objective and old.optimizer == new.optimizer
    assert list(old.callbacks) == ["console"] and list(old.circuits) == ["fourier"]


@pytest.mark.parametrize("values", [OLD, {"loss": "cross_entropy", "loss_tokens": "answer", "grokfast": "off",
                                          "orthogonal_gradient": False, "grokfast_alpha": 0.5}])  # fmt: skip
def test_a_run_of_earlier_code_goes_on(values: dict[str, object], tmp_path: Path) -> None:
    theirs = read_resolved(as_before(tmp_path, values).parent)
    assert read_recipe(write_recipe(tmp_path), NEW if values is OLD else ()).differences(theirs) == []
    other = read_recipe(write_recipe(tmp_path), () if values is OLD else NEW).differences(theirs)
    assert any(line.startswith("optimizer.grokfast.lamb: ") for line in other)
    assert any(line.startswith("objective.loss: ") for line in other)
