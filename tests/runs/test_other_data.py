"""A run goes on with the corpus it was begun with, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.circuits.__main__ import main as circuits
from pipeline.corpora.composition import Composition
from pipeline.corpora.published import write_published
from pipeline.corpora.store import build
from pipeline.runs import __main__ as upkeep
from tests.tiny import COMPOSITION, run_here, write_recipe

SIZES = {"num_entities": 30, "num_relations": 6, "out_degree": 4, "ratio": 2.0, "ood_fraction": 0.2}


def test_files_that_were_replaced_are_another_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    first, other = (build(Composition(**SIZES, seed=seed)) for seed in (0, 1))
    write_published(first, data)
    begin = COMPOSITION.index("{name: composition")
    corpus = COMPOSITION[begin : COMPOSITION.index("}", begin) + 1]
    recipe = write_recipe(tmp_path, COMPOSITION.replace(corpus, f"{{name: published, path: {data}}}"))
    assert run_here(recipe, "--max_steps", "4") == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    write_published(other, data)
    capsys.readouterr()
    for command in (
        lambda: run_here(recipe, "--max_steps", "8"),
        lambda: upkeep.main(["verify", str(run), "--rebuild"]),
        lambda: circuits([str(run), "--analysis", "logit_lens"]),
    ):
        status, told = command(), capsys.readouterr().err
        assert status == 2 and told.count("\n") == 1, told
        assert f"corpus: {run} was begun with content hash " in told and "what is there now has" in told, told
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    write_published(first, data)
    assert run_here(recipe, "--max_steps", "8") == 0
