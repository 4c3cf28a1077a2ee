"""The driver of the analyses, on a small run."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from pipeline.explain import choose_steps, main, read_table
from pipeline.manifest import Entry, Manifest
from pipeline.models.gpt2 import Gpt2
from pipeline.weights import load_weights
from tests.tiny import COMPOSITION, run_here, write_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    text = COMPOSITION + "circuits: {logit_lens: {pairs: 10, steps: log}}\n"
    assert run_here(write_recipe(folder, text), "--max_steps", "10") == 0
    return folder / "run"


def test_a_recipe_s_analyses_run_at_the_end(run: Path) -> None:
    table = read_table(run, "logit_lens").to_pydict()
    assert sorted(set(table["step"])) == [0, 1, 2, 4, 8, 10]
    assert set(table["target"]) == {"answer", "bridge"}


def test_the_report_shows_them(run: Path) -> None:
    assert "![mean reciprocal rank" in (run / "report.md").read_text()
    assert (run / "figures" / "logit_lens.svg").is_file()


def test_what_is_done_is_not_done_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "circuits").rglob("*.parquet")}
    (run / "circuits" / "logit_lens" / "step4.parquet").unlink()
    assert main([str(run), "--analysis", "logit_lens", "--steps", "all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    after = {path: path.stat().st_mtime_ns for path in (run / "circuits").rglob("*.parquet")}
    assert after.keys() == before.keys()
    assert [path.name for path in after if after[path] != before[path]] == ["step4.parquet"]


def test_mistakes_are_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in {
        (str(tmp_path), "--analysis", "logit_lens"): "is not a run folder",
        (str(run), "--analysis", "logit_lense"): "did you mean logit_lens?",
        (str(run), "--analysis", "logit_lens", "--steps", "3"): "step 3 was not kept; kept are 0, 1, 2, 4, 8, 10",
    }.items():
        assert main(list(words)) == 2
        captured = capsys.readouterr()
        assert message in captured.err and captured.err.count("\n") == 1


def test_changed_weights_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = run / "steps" / "step2" / "model.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        (run / "circuits" / "logit_lens" / "step2.parquet").unlink()
        assert main([str(run), "--analysis", "logit_lens", "--steps", "2"]) == 2
        assert "step2: model.safetensors is corrupted" in capsys.readouterr().err
    finally:
        weights.write_bytes(content)


def test_a_recipe_s_analyses_are_checked_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block, message in {
        "{logit_lens: {split: test}}": "circuits.logit_lens.split: no split 'test'; allowed: train, id",
        "{logit_lens: {steps: '3'}}": "circuits.logit_lens.steps: step 3 is not kept",
    }.items():
        assert run_here(write_recipe(tmp_path, COMPOSITION + f"circuits: {block}\n")) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_log_steps_are_a_few_per_octave() -> None:
    manifest = Manifest(kept={step: Entry("", {}) for step in [0, 1, 2, 4, 8, *range(10, 1001, 10)]})
    steps = choose_steps(manifest, "log")
    assert steps[:5] == [0, 1, 2, 4, 8] and steps[-1] == 1000
    assert len(steps) < 35
    assert all(b / a > 1.1 for a, b in itertools.pairwise(steps[1:-1]))


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    sizes = {"n_layer": 1, "n_embd": 8, "n_head": 2, "n_positions": 4}
    torch.manual_seed(0)
    model, other = Gpt2(**sizes).build(8), Gpt2(**sizes).build(8)
    model.save_pretrained(tmp_path)
    load_weights(other, tmp_path)
    assert other.state_dict()["transformer.wte.weight"].equal(model.state_dict()["transformer.wte.weight"])
    for wrong in (Gpt2(**{**sizes, "n_layer": 2}).build(8), Gpt2(**sizes).build(16)):
        with pytest.raises(ValueError, match="does not fit GPT2LMHeadModel"):
            load_weights(wrong, tmp_path)
