"""The rows of every prefix, by hand; and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.recipe import read_recipe
from pipeline.corpora.base import Stepwise
from pipeline.corpora.store import build
from pipeline.corpora.vector_chain import VectorChain
from pipeline.training.session import prepare
from tests.tiny import RECIPE, run_here, write_recipe

CHAINS = RECIPE.replace(
    "{name: group, group: Z11, train_fraction: 0.5, template: a b = c}",
    "{name: vector_chain, modulus: 5, train_size: 40, test_size: 10}",
).replace("n_positions: 8", "n_positions: 48")


def texts_of(trainer: Any) -> list[tuple[str, str]]:
    rows, tokens = trainer.train_rows, build(trainer.recipe.corpus).tokens
    found = []
    for row, prompt, answer in zip(rows.tokens_NT.tolist(), rows.prompt_N.tolist(), rows.answer_N.tolist()):
        words = [tokens[token] for token in row[: prompt + answer]]
        found.append((" ".join(words[:prompt]), " ".join(words[prompt:])))
    return found


@pytest.mark.parametrize("share", [0, 0.5])
def test_each_chain_is_a_row_from_each_of_its_steps_on(share: float, tmp_path: Path) -> None:
    words = ["--objective", f"{{name: every_prefix, outcomes: {share}}}", f"--output_dir={tmp_path / 'run'}"]
    trainer = prepare(read_recipe(write_recipe(tmp_path, CHAINS), words))
    stored = build(VectorChain(modulus=5, train_size=40, test_size=10))
    expected, asked = [], 0
    for block in stored.blocks("train"):
        for row, (prompt, answer) in enumerate(zip(block.prompts.tolist(), block.answers.tolist())):
            vectors = [prompt[start : start + 5] for start in range(0, 36, 6)]
            texts = [" ".join(map(str, vector)) for vector in vectors]
            asked += (judged := row < round(share * len(block)))
            for shown in range(1, 7):
                shown_text = " || ".join(texts[:shown])
                expected.append((f"{shown_text} #|>", " ".join(map(str, answer))))
                if judged:
                    expected.append((f"{shown_text} ok?", "yes" if vectors[-1] == answer else "no"))
    assert sorted(texts_of(trainer)) == sorted(expected) and len(expected) == 6 * (40 + asked)
    assert asked == pytest.approx(40 * share, abs=1)


def test_what_has_no_steps_or_changes_prompts_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, chains = write_recipe(tmp_path), write_recipe(tmp_path, CHAINS, "chains")
    objective = ("--objective", "{name: every_prefix}")
    for path, words, said in (
        (plain, (), "objective: every_prefix needs chains of steps, and group has none"),
        (chains, ("--collator", "{span_drop: {}}"), "collator.span_drop: objective every_prefix needs prompts that"),
    ):
        assert run_here(path, *objective, *words) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error


def test_a_chain_of_vectors_is_stepwise() -> None:
    corpus = VectorChain.tiny()
    assert isinstance(corpus, Stepwise)
    prefixes = corpus.prefixes(next(build(corpus).blocks("id")))
    assert [part.prompts.shape[1] for part in prefixes] == [6, 12, 18, 24, 30, 36] and np.all(prefixes[0].prompts >= 0)
