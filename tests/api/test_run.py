"""Runs in a notebook: what a folder, or a repository on a loopback Hub, gives as models and tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipeline import Run
from pipeline.runs.folder import RunFolder
from pipeline.utils.errors import ParameterError, RecipeError
from tests.hub_server import TOKEN, HubServer, hub
from tests.tiny import COMPOSITION, ROOT, run_here, run_process, write_recipe


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notebook")
    text = COMPOSITION + "circuits: {logit_lens: {pairs: 10, steps: log}}\n"
    assert run_here(write_recipe(folder, text), "--max_steps", "10") == 0
    return folder / "run"


def test_importing_the_package_is_light() -> None:
    code = "import sys, pipeline; assert not {'torch', 'pandas', 'numpy', 'yaml'} & set(sys.modules); pipeline.Run"
    assert run_process("-c", code).returncode == 0
    assert "has no attribute 'Rum'" in run_process("-c", "import pipeline; pipeline.Rum").stderr


def test_curves_rows_and_tables_need_no_torch(path: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
from pipeline import Run
run = Run({str(path)!r})
print(run, len(run.metrics()), len(run.rows("id")), len(run.table("logit_lens")), run.grok.gen_step, run.recipe.name)
"""
    said = run_process("-c", code)
    assert said.returncode == 0, said.stderr


def test_metrics_are_what_was_logged(path: Path) -> None:
    run, lines = Run(path), [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    found = run.metrics()
    assert list(found.columns) == ["step", "split", "metric", "value"] and found.step.is_monotonic_increasing
    for metric, key in {"exact_match": "eval_", "final_exact_match": "final_"}.items():
        for split in ("train", "id", "ood", "id_atomic", "train_inferred"):
            name = f"{key}{split}_exact_match"
            rows = found[(found.metric == metric) & (found.split == split)]
            assert dict(zip(rows.step, rows.value)) == {line["step"]: line[name] for line in lines if name in line}
            assert len(rows)
    rates = found[found.metric == "learning_rate"]
    assert rates.split.isna().all() and set(rates.value) == {0.01}
    table = found[found.metric == "exact_match"].pivot(index="step", columns="split", values="value")
    assert table.notna().all(axis=None) and list(table.index) == run.folder.evaluations


def test_a_model_is_that_of_its_step(path: Path) -> None:
    run = Run(f"{path}@4")
    assert (run.step, run.steps) == (4, [0, 1, 2, 4, 8, 10]) and repr(run) == f"Run('{path}@4': 6 kept steps)"
    for step, model in {4: run.model(), 8: run.model(8), 10: Run(path).model()}.items():
        kept = load_file(path / "steps" / f"step{step}" / "model.safetensors")
        assert not model.training and model.dtype == torch.float32
        assert all(model.state_dict()[name].equal(weight) for name, weight in kept.items())
    words = run.rows("id")
    ids = run.tokenizer(words.prompt[0])["input_ids"]
    assert run.model()(torch.tensor([ids])).logits.shape == (1, len(ids), len(run.tokenizer))


def test_rows_are_those_of_the_exported_corpus(path: Path) -> None:
    run = Run(path)
    for split in ("id", "train"):
        kept = pq.read_table(path / "corpus" / f"{split}.parquet").to_pandas()
        pd.testing.assert_frame_equal(run.rows(split)[list(kept.columns)], kept, check_dtype=False)
    assert list(run.rows("id").columns[:3]) == ["prompt", "answer", "type"]


def test_pairs_differ_in_a_token_and_tables_have_all_steps(path: Path) -> None:
    run = Run(path)
    pairs = run.pairs("train_inferred", 10)
    assert len(pairs) == 10 and ((pairs.clean != pairs.corrupted).sum(1) == 1).all()
    table = run.table("logit_lens")
    assert isinstance(table, pd.DataFrame) and list(np.unique(table.step)) == [0, 1, 2, 4, 8, 10]


def test_mistakes_are_one_line(path: Path, tmp_path: Path) -> None:
    run = Run(path)
    with pytest.raises(RecipeError, match=r"there is no such folder; did you mean .*/run\?"):
        Run(path.parent / "rum")
    with pytest.raises(RecipeError, match="is not the folder of a run"):
        Run(tmp_path)
    with pytest.raises(RecipeError, match="step 3 was not kept; kept are 0, 1, 2, 4, 8, 10"):
        Run(f"{path}@3")
    with pytest.raises(ParameterError, match="step 3 was not kept"):
        run.model(3)
    with pytest.raises(RecipeError, match="has no split 'odd'; allowed: train, id, ood"):
        run.rows("odd")
    with pytest.raises(ParameterError, match="did you mean logit_lens"):
        run.table("logit_len")
    with pytest.raises(RecipeError, match=r"attention was not run on it; python -m pipeline.circuits .* attention"):
        run.table("attention")


def test_a_run_of_the_hub_is_fetched_step_by_step(kept_run: Path, server: HubServer, tmp_path: Path) -> None:
    pushed = hub(server, "push", str(kept_run), "--repo", "user/tiny", "--steps", "0,8,29", "--quick")
    assert pushed.returncode == 0, pushed.stderr
    code = f"""
from pathlib import Path
from pipeline import Run
from safetensors.torch import load_file
run = Run("user/tiny@step8")
assert run.steps == [0, 8, 29] and run.folder.steps == [8], (run.steps, run.folder.steps)
def is_kept(model, step):
    kept = load_file(Path({str(kept_run)!r}) / "steps" / f"step{{step}}" / "model.safetensors")
    return all(model.state_dict()[name].equal(weight) for name, weight in kept.items())
assert is_kept(run.model(), 8) and is_kept(run.model(0), 0) and run.folder.steps == [0, 8]
assert len(run.metrics()) and len(run.rows("id")) and len(run.tokenizer) and len(run.pairs("id", 5)) == 5
print(run)
"""
    environment = {**server.environment, "HF_TOKEN": TOKEN, "GROKLAB_CACHE": str(tmp_path)}
    first = run_process("-c", code, **environment)
    assert first.returncode == 0 and first.stdout == "Run('user/tiny@8': 3 kept steps)\n", first.stderr
    # Without the Hub, what is there has to do; a step that is not there is a line.
    environment["HF_HUB_OFFLINE"] = "1"
    words = "from pipeline import Run; run = Run('user/tiny@8'); print(run.steps, run.model(0).device); run.model(29)"
    again = run_process("-c", words, **environment)
    assert again.stdout == "[0, 8] cpu\n" and "what was downloaded before" in again.stderr
    assert again.stderr.splitlines()[-1].endswith("HF_HUB_OFFLINE is set, so the Hub is not asked; unset it")
    nobody = run_process("-c", "from pipeline import Run; Run('user/nobody')", **environment)
    assert "user/nobody is neither a folder here nor a run on the Hub: " in nobody.stderr.splitlines()[-1]


def test_a_notebook_reads_a_folder_of_another_machine(path: Path, tmp_path: Path) -> None:
    """With paths, a tracker, an engine and a launcher that are not here."""
    there = Path(shutil.copytree(path, tmp_path / "run"))
    text = (there / "recipe.yaml").read_text()
    text += "\nreport_to: [clearml]\ndeepspeed: /scratch/of/somebody/zero2.json\n"
    text = text.replace(f"output_dir: {path}", "output_dir: $SCRATCH_OF_SOMEBODY/runs/x")
    assert "$SCRATCH" in text
    (there / "recipe.yaml").write_text(text)
    code = f"""
from pipeline import Run
run = Run({str(there)!r})
assert run.recipe.training["report_to"] == ["clearml"] and run.recipe.options.global_batch_size == 32
assert len(run.rows("id")) and len(run.pairs("id", 2)) and run.model(4)
"""
    said = run_process("-c", code, WORLD_SIZE="3", RANK="0", LOCAL_RANK="0")
    assert said.returncode == 0, said.stderr
    assert RunFolder.read(there).total_steps == 10 and ROOT.is_dir()
