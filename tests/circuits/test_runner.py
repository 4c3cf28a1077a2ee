"""The driver of the analyses, on a small run."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline import Run
from pipeline.circuits.__main__ import main
from pipeline.circuits._file_pairs import COLUMNS
from pipeline.circuits.attribution import Attribution
from pipeline.circuits.causal_tracing import CausalTracing
from pipeline.circuits.logit_lens import LogitLens
from pipeline.circuits.runner import explain
from pipeline.circuits.tables import add_step, read_table, write_table
from pipeline.corpora.store import as_text
from pipeline.data.tokenizer import build_tokenizer
from pipeline.models.gpt2 import Gpt2
from pipeline.models.loading import load_weights
from pipeline.report.run_report import write_report
from pipeline.runs.checkpoints import choose_steps
from pipeline.runs.entry import Entry
from pipeline.runs.folder import RunFolder
from pipeline.runs.manifest import Manifest
from tests.tiny import COMPOSITION, RECIPE, run_here, write_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    text = COMPOSITION + "circuits: {logit_lens: {pairs: 10, steps: log}}\n"
    assert run_here(write_recipe(folder, text), "--max_steps", "10") == 0
    return folder / "run"


def test_a_recipe_s_analyses_run_at_the_end(run: Path) -> None:
    table = read_table(run, "logit_lens").to_pydict()
    assert sorted(set(table["step"])) == [0, 1, 2, 4, 8, 10]
    assert set(table["target"]) == {"answer", "bridge", "the token itself"}


def test_the_report_shows_them(run: Path) -> None:
    assert "![mean reciprocal rank" in (run / "report.md").read_text()
    assert (run / "figures" / "logit_lens.svg").is_file()
    page = (run / "report.html").read_text()
    assert 'class="moving"' in page and '"steps":[0,1,2,4,8,10]' in page


def test_what_is_done_is_not_done_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "circuits").rglob("*.parquet")}
    (run / "circuits" / "logit_lens" / "step4.parquet").unlink()
    assert main([str(run), "--analysis", "logit_lens", "--steps", "all", "--pairs", "10"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"logit_lens: 6 tables in {run / 'circuits' / 'logit_lens'}",
        str(run / "figures" / "logit_lens.png"),
        str(run / "report.html"),
    ]
    after = {path: path.stat().st_mtime_ns for path in (run / "circuits").rglob("*.parquet")}
    assert after.keys() == before.keys()
    assert [path.name for path in after if after[path] != before[path]] == ["step4.parquet"]


def test_mistakes_are_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lens, kept = (str(run), "--analysis", "logit_lens"), (str(run), "--revision")
    for words, message in {
        (str(tmp_path), *lens[1:]): "is not the folder of a run",
        (str(run), "--analysis", "logit_lense"): "did you mean logit_lens?",
        (*lens, "--steps", "3"): "step 3 was not kept; kept are 0, 1, 2, 4, 8, 10",
        (*lens, "--split", "test"): "no split 'test'; allowed: train, id",
        (*lens, "--logit_lens.pair", "3"): "no such key; did you mean pairs?",
        (*lens, "--logit_lense.pairs", "3"): "is no option here; did you mean logit_",
        (*lens[:2], "attribution", "--attribution.method", "eep"): "'eep' is unknown; allowed: eap, eap-ig",
        (*lens[:2], "fourier"): "is not the group Z_n with + or -",
        (*lens[:2], "similarity", "--against", str(run.parent)): "has no tables of attribution",
        (*lens, "--revision", "step2"): "--revision: goes with --model",
        (*lens, "--output", "there"): "--output: goes with --model",
        (
            *lens,
            "--model",
            *kept,
            "step2",
            "--steps",
            "2",
        ): "--steps: are revisions of --model, so that --revision has no place beside them",
        (*lens, "--device", "gpu0"): "--device: 'gpu0' is no device of this machine; allowed: cpu",
        (*lens[1:], "--model", *kept[:1]): "is a run; name one of its steps",
        lens[1:]: "name a RUN, or a model with --model",
        (*lens[1:], "--model", str(tmp_path)): "--model: ",
        (*lens[1:], "--model", *kept, "step3"): "has no steps/step3",
        (*lens[1:], "--model", str(tmp_path / "not")): f"--model: {tmp_path / 'not'}: there is no such folder",
        (*lens[1:], "--model", *kept, "step2"): "pairs are needed: --data FILE",
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
        assert main([str(run), "--analysis", "logit_lens", "--steps", "2", "--pairs", "10"]) == 2
        assert "step2: model.safetensors is corrupted" in capsys.readouterr().err
    finally:
        weights.write_bytes(content)


def test_other_parameters_and_other_weights_are_computed_anew(run: Path) -> None:
    def change(*words: str) -> set[str]:
        before = {path: path.stat().st_mtime_ns for path in (run / "circuits" / "attribution").glob("*")}
        command = [str(run), "--analysis", "attribution", "--steps", "2,4", "--attribution.method", "eap"]
        assert main([*command, *words]) == 0
        after = {path: path.stat().st_mtime_ns for path in (run / "circuits" / "attribution").glob("*")}
        return {path.stem for path in after if after[path] != before.get(path)}

    assert change("--pairs", "6") == {"step2", "step4"}
    assert change("--pairs", "6") == set()
    assert change("--pairs", "7") == {"step2", "step4"}
    assert change("--pairs", "7", "--attribution.metric", "kl") == {"step2", "step4"}
    # The weights of step 4 as those of step 2, in the manifest too.
    manifest, file = Manifest.load(run), run / "steps" / "step2" / "model.safetensors"
    kept, content = manifest.kept[2], file.read_bytes()
    manifest.kept[2] = dataclasses.replace(kept, files=manifest.kept[4].files)
    manifest.save(run)
    file.write_bytes((run / "steps" / "step4" / "model.safetensors").read_bytes())
    try:
        assert change("--pairs", "7", "--attribution.metric", "kl") == {"step2"}
        tables = [pq.read_table(run / "circuits" / "attribution" / f"step{step}.parquet") for step in (2, 4)]
        assert tables[0]["score"].equals(tables[1]["score"])
    finally:
        file.write_bytes(content)
        manifest.kept[2] = kept
        manifest.save(run)


def test_an_overview_looks_at_the_steps_of_its_source(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(run), "--analysis", "similarity", "--steps", "0,4,10"]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    counted = [line for line in said if " table" in line]
    assert counted == [
        f"attribution: 3 tables in {run / 'circuits' / 'attribution'}",
        f"similarity: 1 table in {run / 'circuits' / 'similarity'}",
    ]
    assert (run / "circuits" / "similarity" / "all.parquet").is_file() and said[-1] == str(run / "report.html")
    assert len(said) > 4 and all(Path(line).is_file() for line in said if line not in counted)
    table = read_table(run, "similarity").to_pylist()
    assert [(row["step"], row["to"], row["to_step"]) for row in table] == [
        (0, "last", 10), (4, "before", 0), (4, "last", 10), (10, "before", 4), (10, "last", 10),
    ]  # fmt: skip
    assert table[-1]["edges"] == table[-1]["nodes"] == 1 and table[-1]["weighted"] == pytest.approx(1)
    assert main([*words, "--against", str(run)]) == 0
    rows = [row for row in read_table(run, "similarity").to_pylist() if row["to"] == "other run"]
    assert [row["to_step"] for row in rows] == [0, 4, 10] and all(row["edges"] == 1 for row in rows)


def test_any_model_can_be_looked_at(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A kept step by revision, a folder with a tokenizer of its own, and pairs of a run or of a file."""
    here = ["--analysis", "logit_lens,attribution", "--pairs", "10", "--output"]
    assert main([str(run), "--model", str(run), "--revision", "step4", *here, str(tmp_path / "a")]) == 0
    table = pq.read_table(tmp_path / "a" / "logit_lens.parquet")
    kept = pq.read_table(run / "circuits" / "logit_lens" / "step4.parquet")
    assert table["step"].to_pylist() == [4] * len(table) and table["mrr"].equals(kept["mrr"])
    assert (tmp_path / "a" / "attribution_circuit.png").read_bytes()[:4] == b"\x89PNG"

    # The same weights with the tokens in another order, as another tokenizer has them.
    opened = Run(run)
    model = opened.model(4)
    order = torch.randperm(len(opened.folder.stored.tokens), generator=torch.Generator().manual_seed(0))
    model.transformer.wte.weight.data = model.transformer.wte.weight.data[order]
    model.save_pretrained(tmp_path / "other")
    tokens = [opened.folder.stored.tokens[i] for i in order]
    build_tokenizer(tokens, opened.recipe.corpus.separator).save_pretrained(tmp_path / "other")
    assert main([str(run), "--model", str(tmp_path / "other"), *here, str(tmp_path / "b")]) == 0
    shuffled = pq.read_table(tmp_path / "b" / "logit_lens.parquet")
    np.testing.assert_allclose(shuffled["mrr"], kept["mrr"], rtol=1e-5)

    pairs = opened.pairs("id", 10)
    text = [as_text(opened.folder.stored, part).to_pylist() for part in (pairs.clean, pairs.corrupted)]
    answers = [
        as_text(opened.folder.stored, part[:, :1]).to_pylist() for part in (pairs.answers, pairs.corrupted_answers)
    ]
    lines = [dict(zip(COLUMNS, row)) for row in zip(*text, *answers)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = ["--data", str(tmp_path / "pairs.jsonl"), "--model", str(tmp_path / "other"), *here, str(tmp_path / "c")]
    assert main(data) == 0
    from_file = pq.read_table(tmp_path / "c" / "attribution.parquet")
    np.testing.assert_allclose(
        from_file["score"], pq.read_table(tmp_path / "b" / "attribution.parquet")["score"], atol=1e-6
    )
    # The same file with the steps of the run: what the corpus gave, as the pairs are the same.
    before = pq.read_table(run / "circuits" / "logit_lens" / "step4.parquet")
    words = [str(run), *data[:2], "--analysis", "logit_lens", "--steps", "4", "--pairs", "10"]
    try:
        assert main(words) == 0
        walked = pq.read_table(run / "circuits" / "logit_lens" / "step4.parquet")
        named = [row["mrr"] for row in before.to_pylist() if row["target"] == "answer"]
        found = [row["mrr"] for row in walked.to_pylist() if row["target"] == "answer"]
        np.testing.assert_allclose(found, named, rtol=1e-5)
        assert "bridge" not in walked["target"].to_pylist()  # a note that the file does not hold
    finally:
        assert main([str(run), "--analysis", "logit_lens", "--steps", "4", "--pairs", "10"]) == 0
    capsys.readouterr()
    assert main([*data[:-1], str(tmp_path / "c"), "--analysis", "similarity"]) == 2
    assert "compares the steps of a run" in capsys.readouterr().err


@pytest.mark.parametrize("steps", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_many_steps_need_the_memory_of_few(tmp_path: Path, steps: int) -> None:
    """What the process holds at the end of a walk is what it held near its beginning, but for odds and ends."""
    text = RECIPE.replace("every: [[10, null]]", "every: [[1, null]]").replace("max_steps: 24", f"max_steps: {steps}")
    assert run_here(write_recipe(tmp_path, text), "--eval_steps", "100", "--save_steps", "100") == 0
    analyses: dict[str, Any] = {
        "attribution": Attribution(pairs=20),
        "causal_tracing": CausalTracing(split="id", pairs=50),
    }
    sizes = []
    for i, _ in enumerate(explain(RunFolder(tmp_path / "run"), analyses)):
        if i % (steps + 1) in (10, steps):
            gc.collect()
            held = gc.get_objects()
            sizes.append((sum(thing.numel() for thing in held if isinstance(thing, torch.Tensor)), len(held)))
    assert len(sizes) == 4
    for early, late in (sizes[:2], sizes[2:]):
        assert late[0] == early[0] and late[1] < early[1] + 2000


def test_tables_of_another_version_do_not_break_the_report(run: Path) -> None:
    path = run / "circuits" / "logit_lens" / "step4.parquet"
    kept = {file: file.read_bytes() for file in path.parent.glob("*.parquet")}
    try:
        for file in kept:
            write_table(file.parent, file.name, pq.read_table(file).drop_columns(["mrr"]), {"code": "another"})
        write_report(run)
        assert "were written by another version; `python -m pipeline.circuits" in (run / "report.md").read_text()
    finally:
        for file, content in kept.items():
            file.write_bytes(content)


def test_the_api_is_as_short_as_shown(run: Path) -> None:
    opened = Run(run)
    assert opened.steps == [0, 1, 2, 4, 8, 10]
    model, pairs = opened.model(step=8), opened.pairs("id", 10)
    analysis = LogitLens()
    table = analysis.run(model, pairs)
    assert table["mrr"].equals(pq.read_table(run / "circuits" / "logit_lens" / "step8.parquet")["mrr"])
    assert analysis.draw(add_step(table, 8))[""].figure.axes
    looked = opened.look(LogitLens(pairs=10), step=8)
    assert looked["mrr"].equals(table["mrr"]) and analysis.draw(looked)[""].figure.axes
    assert opened.look(LogitLens(pairs=10))["step"][0].as_py() == 10
    assert opened.model() is not model and len(opened.table("logit_lens")) > len(table)


def test_a_recipe_s_analyses_are_checked_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block, message in {
        "{logit_lens: {split: test}}": "circuits.logit_lens.split: no split 'test'; allowed: train, id",
        "{logit_lens: {steps: '3'}}": "circuits.logit_lens.steps: step 3 is not kept",
        "{fourier: {}}": "circuits.fourier.corpus: is not the group Z_n with + or -",
        "{causal_tracing: {pairs: 0}}": "circuits.causal_tracing.pairs: 0 is not a whole number >= 1",
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
