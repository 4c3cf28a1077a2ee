"""A run of any architecture that is stopped and started again ends with the weights of one that was not."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from pipeline.config.registry import names
from tests.tiny import RECIPE, run_here, write_recipe


@pytest.mark.parametrize("name", [name for name in names("models") if name != "pretrained"])
def test_it_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, RECIPE.replace("name: gpt2,", f"name: {name},"))
    for folder, steps in (("straight", "8"), ("parts", "5"), ("parts", "8")):
        words = ("--output_dir", str(tmp_path / folder), "--max_steps", steps, "--callbacks.console.style", "off")
        assert run_here(recipe, *words) == 0
    straight, parts = (
        load_file(tmp_path / folder / "steps/step8/model.safetensors") for folder in ("straight", "parts")
    )
    assert straight.keys() == parts.keys() and all(parts[key].equal(weight) for key, weight in straight.items())
