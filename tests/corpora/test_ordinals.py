"""Ordered sets: what follows what, worked out by the calendar and by counting, and where the pairs are split."""

from __future__ import annotations

import calendar
from collections import Counter

import pytest

from pipeline.corpora.ordinals import Ordinals
from pipeline.corpora.store import build
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import facts


def test_what_follows_is_what_calendars_and_counting_say() -> None:
    corpus = Ordinals(numbers=30)
    words = [word for word in corpus.vocabulary() if word[0] != "<"]
    found = {name: [(words[a], words[b]) for a, b in pairs] for name, pairs in corpus.successors().items()}
    days, months = list(calendar.day_name), list(calendar.month_name)[1:]
    assert found["days"] == [(day, days[(i + 1) % 7]) for i, day in enumerate(days)]
    assert found["months"] == [(month, months[(i + 1) % 12]) for i, month in enumerate(months)]
    assert found["numbers"] == [(str(i), str(i + 1)) for i in range(1, 30)]
    assert found["letters"] == [(chr(65 + i), chr(66 + i)) for i in range(25)]
    values = {"i": 1, "v": 5, "x": 10}

    def value(roman: str) -> int:
        signs = [values[sign] for sign in roman]
        return sum(-one if one < max(signs[i:]) else one for i, one in enumerate(signs))

    assert [(value(a), value(b)) for a, b in found["roman"]] == [(i, i + 1) for i in range(1, 20)]
    assert [len(found[name]) for name in ("words", "ordinals")] == [19, 9]
    assert len(set(words)) == len(words)


def test_the_label_says_whose_successor_is_asked_for() -> None:
    small = {"sets": ("days", "ordinals"), "labels": 3, "rows": 2000, "held_out_rows": 100}
    stored = build(Ordinals(**small))
    both = [*facts(stored, "train"), *facts(stored, "id")]
    assert len(both) == len({fact.prompt for fact in both}) == 2100 and stored.sizes["id"] == 100
    sets = Ordinals().elements
    following = {word: words[(i + 1) % len(words)] for words in sets.values() for i, word in enumerate(words)}
    asked: Counter[bool] = Counter()
    for fact in both:
        first, a, second, b, label = fact.prompt
        assert first != second and {first, second, label} <= {"<1>", "<2>", "<3>"}
        element = {first: a, second: b}[label]
        assert fact.answer == (following[element],) and element in sets[fact.type] and element != "tenth"
        asked[label == first] += 1
    assert min(asked.values()) > 900


def test_all_prompts_can_be_asked_for_and_no_more() -> None:
    # 3 * 2 orders of labels, 2 places, 16 elements that have a successor in each.
    stored = build(Ordinals(sets=("days", "ordinals"), labels=3, rows=3000, held_out_rows=72))
    assert len({fact.prompt for split in ("train", "id") for fact in facts(stored, split)}) == 6 * 2 * 16 * 16
    with pytest.raises(ParameterError, match="rows: 3,001 and 72 are more than 3,072 prompts"):
        Ordinals(sets=("days", "ordinals"), labels=3, rows=3001, held_out_rows=72)


@pytest.mark.parametrize(
    ("sets", "error"),
    [
        ((), "none: are not different sets"),
        (("days", "days"), "days, days: are not different sets"),
        (("days", "month"), "there is no set 'month'; did you mean months?"),
    ],
)
def test_sets_that_there_are_not_are_refused(sets: tuple[str, ...], error: str) -> None:
    with pytest.raises(ParameterError, match=error):
        Ordinals(sets=sets)
