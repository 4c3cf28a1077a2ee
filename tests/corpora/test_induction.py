"""Rows that repeat: where the answer stands, and that no position gives it away."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.corpora.induction import Induction
from pipeline.corpora.store import build
from pipeline.utils.errors import ParameterError

PARAMETERS = {"vocabulary_size": 20, "length": 24, "shortest": 4, "longest": 9, "train_rows": 3000, "id_rows": 300}


def rows_of(split: str) -> list[list[int]]:
    stored = build(Induction(**PARAMETERS))
    return [row for block in stored.blocks(split) for row in np.hstack([block.prompts, block.answers]).tolist()]


def test_the_answer_followed_the_last_token_before() -> None:
    for split, count in (("train", 3000), ("id", 300)):
        rows = rows_of(split)
        assert len(rows) == count
        for row in rows:
            *prompt, answer = row
            before = prompt.index(prompt[-1])
            segment = prompt.index(row[0], 1)
            assert before < len(prompt) - 1 and prompt[before + 1] == answer
            assert 4 <= segment <= 9 and len(set(row[:segment])) == segment
            assert all(row[i] == row[i % segment] for i in range(len(row)))


def test_no_position_says_where_the_answer_stands() -> None:
    # The best single position to copy from is right by its chance: where a segment's multiple reaches back to it.
    rows = np.array(rows_of("train"))
    right = [(rows[:, place] == rows[:, -1]).mean() for place in range(23)]
    lengths = Counter(row[:10].index(row[0], 1) for row in rows.tolist())
    assert set(lengths) == set(range(4, 10)) and max(lengths.values()) < 1.3 * min(lengths.values())
    assert max(right) < 0.45  # a third of the lengths divide 8, or 12 ...; a fixed length would give 1
    tokens = np.bincount(rows[:, 0], minlength=20)
    assert tokens.min() > 100 and tokens.max() < 200  # 150 of each are expected


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ParameterError, match=r"longest: 30 is not from shortest, 4, to 20"):
        Induction(**{**PARAMETERS, "longest": 30})
    with pytest.raises(ParameterError, match=r"train_rows: 3,300 different rows are asked for"):
        build(Induction(**{**PARAMETERS, "vocabulary_size": 3, "length": 5, "shortest": 2, "longest": 3}))
