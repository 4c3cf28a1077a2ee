"""A run folder is enough to read its steps by, and a run reads what it knows already no second time."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import recipe, yaml_nodes
from pipeline.corpora import store
from pipeline.models.loading import load_step
from pipeline.runs import folder
from pipeline.runs.checkpoints import facts_of
from pipeline.runs.folder import RunFolder, read_resolved
from pipeline.runs.manifest import Manifest
from pipeline.utils.errors import MismatchError
from tests.bases import recipe_of
from tests.tiny import COMPOSITION, run_here, run_process, write_recipe

LOOK = """
import sys
sys.modules["peft"] = None
import torch
from pathlib import Path
from safetensors.torch import load_file
from pipeline import Run
from pipeline.circuits.logit_lens import LogitLens

for path in sys.argv[1:]:
    run = Run(path)
    for step in run.steps:
        model, kept = run.model(step), load_file(Path(path) / "steps" / f"step{step}" / "model.safetensors")
        names = model.state_dict()
        assert all(names[name.replace("embed_out", "lm_head")].equal(weight) for name, weight in kept.items())
    table = run.look(LogitLens(pairs=4, split="train"))
    assert len(table) and len(run.rows("id")) and len(run.pairs("train", 4)) == 4 and len(run.tokenizer)
    print(run.recipe.model.model_name_or_path)
"""


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_a_step_is_read_without_its_base_and_without_peft(family: str, bases: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the extra peft is not installed")
    own = tmp_path / "bases"
    shutil.copytree(bases, own)
    runs = []
    for name, more in {"continued": "", "lora": "\npeft: {r: 4}\n"}.items():
        text = recipe_of(own, family, "vocabulary: tokens", more)
        text = text if more else text.replace(", adapter_drift: {}", "")
        path = write_recipe(tmp_path, text, name)
        runs.append(tmp_path / name / "run")
        words = ("--max_steps", "2", "--max_eval_samples", "8", "--output_dir", str(runs[-1]))
        assert run_here(path, *words) == 0
    # One whose base is a name on the Hub, which nobody can reach here.
    runs.append(Path(shutil.copytree(runs[0], tmp_path / "named")))
    text = (runs[-1] / "recipe.yaml").read_text()
    assert str(own / family) in text
    (runs[-1] / "recipe.yaml").write_text(text.replace(str(own / family), "org/base"))
    shutil.rmtree(own)
    found = run_process("-c", LOOK, *map(str, runs))
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == [str(own / family)] * 2 + ["org/base"]


def test_a_run_parses_its_recipe_once_and_opens_its_corpus_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def count(module: Any, name: str) -> None:
        real: Callable[..., Any] = getattr(module, name)

        def counted(*args: Any, **options: Any) -> Any:
            calls[f"{module.__name__}.{name}"] += 1
            return real(*args, **options)

        monkeypatch.setattr(module, name, counted)

    text = COMPOSITION + "circuits: {logit_lens: {pairs: 10, steps: last}, similarity: {steps: last}}\n"
    path = write_recipe(tmp_path, text)
    store.build(recipe.read_recipe(path).corpus)  # into the cache, so that it is there to be opened
    for module, name in ((recipe, "_recipe"), (yaml_nodes, "parse"), (folder, "parse"), (store, "_open")):
        count(module, name)
    assert run_here(path, "--max_steps", "4") == 0
    parsed, opened = "pipeline.config.recipe._recipe", "pipeline.corpora.store._open"
    assert (calls[parsed], calls[opened], calls["pipeline.runs.folder.parse"]) == (1, 1, 0), calls
    # What it went by is what its folder says.
    run = RunFolder(tmp_path / "run")
    assert RunFolder.of(run.recipe, run.stored).resolved == read_resolved(tmp_path / "run") == run.resolved


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"model_type": "nobody"}', '{"model_type": "gpt2", "n_head": 7}'])
def test_a_step_whose_configuration_is_of_no_model_is_a_line(config: str, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished.parent / "run", tmp_path / "run"))
    (run / "steps" / "step8" / "config.json").write_text(config)
    manifest = Manifest.load(run)
    facts = facts_of(run / "steps" / "step8", list(manifest.kept[8].files))
    manifest.kept[8] = dataclasses.replace(manifest.kept[8], files=facts)
    manifest.save(run)
    with pytest.raises(MismatchError, match=r"step8: config\.json is of no model: ") as error:
        load_step(RunFolder(run), 8)
    assert "\n" not in str(error.value)
