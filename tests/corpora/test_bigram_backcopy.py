"""Bigrams and copies: what follows what, how often, and the loss that is left to who knows the law."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from pipeline.corpora.bigram_backcopy import BigramBackcopy
from pipeline.corpora.store import build
from pipeline.utils.errors import ParameterError

PARAMETERS = {"vocabulary_size": 10, "triggers": 2, "length": 20, "train_rows": 4000, "id_rows": 300}


def rows_of(corpus: BigramBackcopy, split: str = "train") -> list[list[int]]:
    return [row for block in build(corpus).blocks(split) for row in np.hstack([block.prompts, block.answers]).tolist()]


def test_after_a_trigger_comes_what_stood_before_it_and_else_what_the_bigrams_say() -> None:
    corpus = BigramBackcopy(**PARAMETERS)
    following: dict[int, Counter[int]] = {token: Counter() for token in range(10)}
    for row in rows_of(corpus):
        assert len(row) == 21 and row[0] == 10 and row[1] >= 2 and 10 not in row[1:]
        for before, now, after in zip(row, row[1:], row[2:]):
            if now < 2:
                assert after == before
            else:
                following[now][after] += 1
    assert not following[0] and not following[1]
    for token in range(2, 10):
        seen = np.array([following[token][other] for other in range(10)])
        expected = corpus.bigrams[token] * seen.sum()
        assert np.square(seen - expected).sum() / expected.mean() < 60  # chi square of 9 free counts, generously
        assert seen.sum() > 2000
    assert len(rows_of(corpus, "id")) == 300


def test_bigrams_are_powers_of_a_rank_times_how_frequent_a_token_is() -> None:
    bigrams = BigramBackcopy(**PARAMETERS).bigrams
    np.testing.assert_allclose(bigrams.sum(axis=1), 1)
    relative = bigrams * np.arange(1, 11) ** 0.8
    for row in relative:  # 1, 1/2, 1/3 ... in some order, which differs between tokens
        np.testing.assert_allclose(np.sort(row)[::-1] / row.max(), 1 / np.arange(1, 11), rtol=1e-6)
    assert len({tuple(np.argsort(row)) for row in relative}) == 10
    even = BigramBackcopy(**PARAMETERS, exponent=0, contrast=0).bigrams
    np.testing.assert_allclose(even, 0.1)


def test_the_law_knows_what_is_copied_and_how_surprising_the_rest_is() -> None:
    corpus = BigramBackcopy(**PARAMETERS)
    rows = np.array(rows_of(corpus)[:50])
    found = corpus.law(rows)
    for i, row in enumerate(rows.tolist()):
        assert math.isnan(found["active"][i, 0]) and math.isnan(found["surprise"][i, 0])
        for place in range(1, 20):
            copied = row[place] < 2
            chance = 1 if copied else corpus.bigrams[row[place], row[place + 1]]
            assert found["active"][i, place] == copied
            assert found["surprise"][i, place] == pytest.approx(-math.log(chance), abs=1e-12)
    broken = rows.copy()
    place = int(np.argmax(rows[0, 1:-1] < 2)) + 1
    broken[0, place + 1] = (broken[0, place - 1] + 1) % 10  # after a trigger something else
    assert corpus.law(broken)["surprise"][0, place] == math.inf


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ParameterError, match="triggers: 9 of 10 tokens; at most 8"):
        BigramBackcopy(**{**PARAMETERS, "triggers": 9})
