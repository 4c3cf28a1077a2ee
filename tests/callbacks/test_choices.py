"""Words that are chosen among few, against the model's own logits, one row after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.recipe import read_recipe
from pipeline.corpora.base import Choosing
from pipeline.corpora.store import build
from pipeline.runs.metrics import read_series
from pipeline.training.session import prepare, train
from tests.tiny import RECIPE, write_recipe

CORPORA = {
    "first_auxiliary": "{name: question_formation, lexicon: 3, train_rows: 300, id_rows: 60, gen_rows: 60}",
    "distant_closing": "{name: dyck, types: 3, depth: 6, longest: 36, train_rows: 200, id_rows: 30, gen_rows: 30}",
}


@pytest.mark.parametrize("what", CORPORA)
def test_the_likeliest_of_few_is_compared_with_the_right_one(what: str, tmp_path: Path) -> None:
    text = RECIPE.replace("{name: group, group: Z11, train_fraction: 0.5, template: a b = c}", CORPORA[what])
    text = text.replace("n_positions: 8", "n_positions: 48")
    text = text.replace("{console: {style: plain, seconds: 0}}", "{choices: {}}")
    recipe = read_recipe(write_recipe(tmp_path, text), ["--max_steps", "6", "--output_dir", str(tmp_path / "run")])
    trainer: Any = prepare(recipe)
    train(trainer)
    corpus: Any = recipe.corpus
    assert isinstance(corpus, Choosing)
    series, model = read_series(tmp_path / "run"), trainer.model.eval()
    assert series[f"choice_{what}_gen"].steps[-1] == 6
    for split in ("id", "gen"):
        right = []
        for block in build(corpus).blocks(split):
            if what not in corpus.choices(block):
                continue
            asked, among = corpus.choices(block)[what]
            for row, places in zip(np.hstack([block.prompts, block.answers]), asked):
                for at in np.flatnonzero(places):
                    with torch.no_grad():
                        logits = model(torch.from_numpy(row[None, :at]).long()).logits[0, -1].tolist()
                    right.append(max(among, key=logits.__getitem__) == row[at])
        key = f"choice_{what}_{split}"
        assert series[key].values[-1] == pytest.approx(np.mean(right), abs=1e-6) if right else key not in series
        assert right or split == "id"


def test_nothing_is_logged_of_a_corpus_that_asks_for_none(tmp_path: Path) -> None:
    text = RECIPE.replace("{console: {style: plain, seconds: 0}}", "{choices: {}}")
    words = ["--max_steps", "2", "--output_dir", str(tmp_path / "r")]
    trainer = prepare(read_recipe(write_recipe(tmp_path, text), words))
    train(trainer)
    assert not [key for key in read_series(tmp_path / "r") if key.startswith("choice")]
