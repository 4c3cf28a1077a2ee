"""Sentences of four behaviours, and what corrupts them, read word by word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.circuits._pairs import CorpusPairs
from pipeline.corpora.behaviours import WORDS, Behaviours
from pipeline.corpora.reviews import Reviews
from pipeline.corpora.store import StoredCorpus, build
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import facts

TASKS = ("ioi", "greater_than", "gendered_pronoun", "agreement")
OF = {name: words.split() for name, words in WORDS.items()}


@pytest.fixture(scope="module")
def stored() -> StoredCorpus:
    return build(Behaviours(rows=4000, held_out_rows=150))


def follows(task: str, words: list[str]) -> set[str]:
    """Which words may follow a sentence."""
    if task == "ioi":
        one, other, giver = words[1], words[3], words[9]
        assert one != other and " ".join([*words[:1], *words[4:7], words[8], *words[10:12], words[13]]) == (
            "then went to the , gave a to"
        )
        return {one, other} - {giver}
    if task == "greater_than":
        assert words[6] == words[11] and 11 <= int(words[6]) <= 18 and words[1] in OF["events"]
        return {f"{year:02}" for year in range(int(words[7]) + 1, 100)}
    if task == "gendered_pronoun":
        return {"she"} if words[1] in OF["women"] else {"he"}
    return {"is"} if words[1] in OF["things"] else {"are"}


@pytest.mark.parametrize("task", TASKS)
def test_what_follows_is_what_the_words_say(task: str, stored: StoredCorpus) -> None:
    held_out = list(facts(stored, task))
    trained = [fact for fact in facts(stored, "train") if fact.type == task]
    assert len(held_out) == 150 and len(trained) == 1000
    assert len({fact.prompt for fact in [*held_out, *trained]}) == 1150
    for fact in [*held_out, *trained]:
        assert {*fact.answer} <= follows(task, list(fact.prompt))
    assert len({fact.answer for fact in trained}) >= 2


@pytest.mark.parametrize("task", TASKS)
def test_a_corrupted_sentence_differs_in_one_word_and_has_another_answer(task: str, stored: StoredCorpus) -> None:
    pairs = CorpusPairs(stored).pairs(task, 100, 0)
    words: Any = np.array(stored.tokens)
    assert len(pairs) == 100 and ((pairs.clean != pairs.corrupted).sum(axis=1) == 1).all()
    for clean, corrupted, answer, other in zip(pairs.clean, pairs.corrupted, pairs.answers, pairs.corrupted_answers):
        may, then = (follows(task, words[side].tolist()) for side in (clean, corrupted))
        assert words[answer[0]] in may and words[other[0]] not in may and words[other[0]] in then


def test_reviews_are_corrupted_in_all_their_adjectives() -> None:
    corpus = Reviews(rows=300, id_rows=60)
    pairs = CorpusPairs(build(corpus)).pairs("id", 40, 0)
    differ = pairs.clean != pairs.corrupted
    assert (differ == (np.array(corpus.places(30)) == "adjective")).all()
    assert (corpus.praises(pairs.clean) != corpus.praises(pairs.corrupted)).all()
    good = len(corpus.vocabulary()) - 2
    assert (pairs.corrupted_answers[:, 0] == np.where(corpus.praises(pairs.corrupted), good, good + 1)).all()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"tasks": ("ioi", "agrement")}, "there is no task 'agrement'; did you mean agreement?"),
        ({"tasks": ()}, "none: are not different tasks"),
        ({"held_out_rows": 900}, "held_out_rows: 900 are half of the sentences of gendered_pronoun"),
    ],
)
def test_what_there_is_not_is_refused(given: dict[str, Any], error: str) -> None:
    with pytest.raises(ParameterError, match=error):
        build(Behaviours(**given))
