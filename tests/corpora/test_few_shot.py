"""Rows of examples: what is asked for is the label that a row's rule gives, and how often examples show another."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from pipeline.corpora.few_shot import FewShot
from pipeline.corpora.store import build
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import facts


def test_examples_without_noise_are_those_of_one_rule() -> None:
    stored = build(FewShot(noise=0, rows=500, id_rows=50))
    for fact in facts(stored, "id"):
        *examples, asked = fact.prompt
        rule: dict[str, set[str]] = defaultdict(set)
        for one, label in zip(examples[::2], examples[1::2]):
            rule[one].add(label)
        assert len(examples) == 24 and asked[0] == "x"
        assert all(len(labels) == 1 for labels in rule.values()) and rule.get(asked, {*fact.answer}) == {*fact.answer}


def test_noise_is_a_share_of_the_examples_and_none_of_the_answers() -> None:
    (block,) = build(FewShot(inputs=2, labels=4, shots=20, noise=0.4, rows=2000, id_rows=10)).blocks("train")
    places = block.prompts[:, :-1].reshape(len(block), -1, 2)
    same = places[..., 0] == block.prompts[:, -1:]
    shown = places[..., 1][same] == np.broadcast_to(block.answers, same.shape)[same]
    # A label drawn from four is the right one in a quarter of the cases.
    assert shown.mean() == pytest.approx(1 - 0.4 * 3 / 4, abs=0.01)
    assert min(Counter(block.answers[:, 0].tolist()).values()) > 400


def test_more_rows_than_there_are_are_refused() -> None:
    with pytest.raises(ParameterError, match="rows: 20 different rows are asked for"):
        build(FewShot(inputs=2, labels=2, shots=1, noise=0, rows=10, id_rows=10))
