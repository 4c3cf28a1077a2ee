"""Reviews: what their clauses come to, counted word by word."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.corpora.reviews import ADJECTIVES, Reviews
from pipeline.corpora.store import build
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import facts


def test_a_review_is_what_most_of_its_clauses_are() -> None:
    stored = build(Reviews(rows=3000, id_rows=300))
    praise, blame = (set(words.split()) for words in ADJECTIVES.values())
    assert len(praise) == len(blame) == 32 and not praise & blame
    agree: Counter[bool] = Counter()
    both = [*facts(stored, "train"), *facts(stored, "id")]
    assert len({fact.prompt for fact in both}) == 3300
    for fact in both:
        *clauses, question = " ".join(fact.prompt).split(" , ")
        assert question == "all told quite" and len(clauses) == 3
        marks = [[1 if word in praise else -1 for word in c.split() if word in praise | blame] for c in clauses]
        assert [len(one) for one in marks] == [3, 3, 3]
        good = sum(1 if sum(one) > 0 else -1 for one in marks) > 0
        assert fact.answer == ("good" if good else "bad",) == (fact.type,)
        agree[good == (sum(map(sum, marks)) > 0)] += 1
    # Counting all adjectives together is not enough: one review in seven or so is not what most of its words are.
    assert 0.05 < agree[False] / len(both) < 0.25
    counts = Counter(fact.type for fact in both)
    assert abs(counts["good"] - counts["bad"]) < 300


def test_places_name_what_stands_there() -> None:
    corpus = Reviews(clauses=1, words=1)
    assert corpus.places(8) == ["opener", "topic", "verb", "adjective", "comma", "all", "told", "quite"]
    stored = build(Reviews(clauses=3, words=5, rows=50, id_rows=10))
    assert len(stored.corpus.places(99)) == len(next(iter(stored.blocks("train"))).prompts[0]) == 3 * 13 + 3


def test_what_has_no_majority_is_refused() -> None:
    with pytest.raises(ParameterError, match="clauses: 2 is not odd"):
        Reviews(clauses=2)
    with pytest.raises(ParameterError, match="words: 4 is not odd"):
        Reviews(words=4)
    with pytest.raises(ParameterError, match="rows: 9,000 different rows are asked for"):
        build(Reviews(clauses=1, words=1, adjectives=2, rows=8000, id_rows=1000))
