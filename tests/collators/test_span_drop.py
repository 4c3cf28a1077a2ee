"""What SpanDrop leaves out, against the probabilities worked out on paper."""

from __future__ import annotations

import math
import re
from typing import Literal

import numpy as np
import pytest

from pipeline.collators.span_drop import SpanDrop
from pipeline.corpora.base import PAD
from pipeline.corpora.findcats import SEPARATOR, Findcats
from pipeline.data.augmented import Prompts
from pipeline.utils.draws import Draws

N = 12  # letters of a string
ROWS = 60_000
CORPUS = Findcats(length=N)
TOKENS = CORPUS.tokens()
HEAD = [26, 2, 0, 19, SEPARATOR]


def same_prompts(rows: int) -> Prompts:
    """The string b d e ... of N different letters, so many times."""
    row = [*HEAD, *range(3, 3 + N), SEPARATOR]
    return Prompts(np.tile(np.int64(row), (rows, 1)), np.full(rows, len(row)), np.full((rows, 1), 28))


def near(share: float, expected: float) -> bool:
    """Within 4.5 standard deviations of a share of ROWS draws."""
    return abs(share - expected) < 4.5 * math.sqrt(expected * (1 - expected) / ROWS)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
@pytest.mark.parametrize(("rate", "scale"), [("bernoulli", 1.0), ("beta", 1.0), ("beta", 3.0)])
def test_spans_survive_with_the_probabilities_of_the_paper(
    rate: Literal["bernoulli", "beta"], scale: float, p: float
) -> None:
    before = same_prompts(ROWS)
    after = SpanDrop(p=p, rate=rate, scale=scale)(before, CORPUS, Draws(0, "test"))
    kept = np.stack([(after.tokens[:, 5:] == letter).any(1) for letter in range(3, 3 + N)], 1)
    a, b = scale * max(1, p / (1 - p)), scale * max(1, (1 - p) / p)

    def together(spans: int) -> float:
        """That so many given spans are all kept: E[(1 - rate)^m]."""
        if rate == "bernoulli":
            return (1 - p) ** spans
        return math.prod((b + i) / (a + b + i) for i in range(spans))

    assert together(1) == pytest.approx(1 - p)
    for spans in (1, 2, 3, N):
        assert near(kept[:, :spans].all(1).mean(), together(spans)), spans
    assert near(kept[:, -3:].all(1).mean(), together(3))
    if rate == "beta" and scale == 1 and p < 0.5:
        assert together(N) == pytest.approx(b / (b + N))  # whole prompts are seen
    # What is kept stands in its order, and the question stays.
    for row, length in zip(after.tokens[:50].tolist(), after.length[:50].tolist()):
        letters = row[5 : length - 1]
        assert row[:5] == HEAD and row[length - 1] == SEPARATOR and letters == sorted(letters)
        assert row[length:] == [TOKENS.index(PAD)] * (len(row) - length)


def test_answers_still_follow_where_that_is_asked_for() -> None:
    blocks = next(iter(Findcats(length=20, train_size=400).splits()["train"]))
    before = Prompts(blocks.prompts.astype(np.int64), np.full(400, blocks.prompts.shape[1]), blocks.answers)

    def text(row: list[int], length: int) -> str:
        return "".join(TOKENS[token] for token in row[5 : length - 1])

    wrong = {}
    for validate in (False, True):
        after = SpanDrop(p=0.3, validate=validate)(before, CORPUS, Draws(1, "test"))
        found = [bool(re.search("c.*a.*t", text(*row))) for row in zip(after.tokens.tolist(), after.length.tolist())]
        wrong[validate] = sum(TOKENS[a] != ("yes" if b else "no") for a, b in zip(after.answers[:, 0], found))
        assert (after.length < before.length).mean() > 0.5
    assert wrong[False] > 20 and wrong[True] == 0


def test_what_can_never_be_right_stays_whole() -> None:
    class Strict(Findcats):
        def is_answer(self, prompts: np.ndarray, answers: np.ndarray) -> np.ndarray:
            return (prompts[:, -1] == SEPARATOR)[: len(answers)]  # of whole prompts alone

    before = same_prompts(300)
    after = SpanDrop(p=0.9, rate="bernoulli", validate=True)(before, Strict(length=N), Draws(0, "test"))
    assert (after.length == before.length).all() and (after.tokens == before.tokens).all()
