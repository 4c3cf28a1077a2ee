"""Nouns and adjectives: forms, frequencies, ambiguous words and what each split shows, worked out on the words."""

from __future__ import annotations

from collections import Counter

import pytest

from pipeline.corpora.pos_icl import PosIcl
from pipeline.corpora.store import StoredCorpus, build
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import Fact, facts

WORDS = 50  # of each part of speech


@pytest.fixture(scope="module")
def stored() -> StoredCorpus:
    return build(PosIcl(vocabulary_size=100, unseen=8, exponent=1.2, ambiguity=0.1, train_rows=20_000, eval_rows=300))


def roles(fact: Fact) -> tuple[str, str]:
    """What stands as the noun and as the adjective, by the form alone."""
    first, second, third, _ = fact.prompt
    return (third, second) if first == "is" else (first, third)


@pytest.mark.parametrize("split", ["train", "head", "id", "tail", "switch", "tail_switch", "unseen"])
def test_targets_follow_from_the_form(stored: StoredCorpus, split: str) -> None:
    for fact in facts(stored, split):
        noun, adjective = roles(fact)
        query = fact.prompt[3]
        assert fact.prompt.count("is") == 1 and query in (noun, adjective)
        assert fact.answer == ((adjective,) * 3 if query == adjective else (adjective, noun, noun))


def test_forms_and_queries_are_as_frequent(stored: StoredCorpus) -> None:
    counts = Counter((fact.prompt[0] == "is", fact.prompt[3] == roles(fact)[1]) for fact in facts(stored, "train"))
    assert all(4700 < count < 5300 for count in counts.values()) and len(counts) == 4


def test_ranks_follow_the_power_law(stored: StoredCorpus) -> None:
    counts = Counter(roles(fact)[0] for fact in facts(stored, "train"))
    whole = sum(rank**-1.2 for rank in range(1, WORDS + 1))
    ambiguous, _ = PosIcl(vocabulary_size=100, unseen=8, exponent=1.2, ambiguity=0.1).ambiguous()
    for rank in (0, 1, 2, 5, 10):
        expected = 20_000 * (rank + 1) ** -1.2 / whole * (0.5 if rank in ambiguous else 1)
        assert counts[f"n{rank}"] == pytest.approx(expected, rel=0.15)


def test_ambiguous_words_alone_stand_in_the_other_s_place(stored: StoredCorpus) -> None:
    corpus = stored.corpus
    assert isinstance(corpus, PosIcl)
    nouns, adjectives = corpus.ambiguous()
    assert [sum(lo <= rank < lo + 10 for rank in nouns) for lo in range(0, WORDS, 10)] == [1] * 5
    swapped = {f"n{rank}" for rank in nouns} | {f"a{rank}" for rank in adjectives}
    strange = Counter(
        word for fact in facts(stored, "train") for word, kind in zip(roles(fact), "na") if not word.startswith(kind)
    )
    assert set(strange) <= swapped and len(strange) >= 8


def test_each_split_has_its_words(stored: StoredCorpus) -> None:
    for fact in facts(stored, "unseen"):
        assert all(word.startswith("u") for word in roles(fact))
    for fact in facts(stored, "tail"):
        noun, adjective = roles(fact)
        assert noun[0] == "n" and adjective[0] == "a" and min(int(noun[1:]), int(adjective[1:])) >= 45
    for split in ("switch", "tail_switch"):
        for fact in facts(stored, split):
            noun, adjective = roles(fact)
            assert noun[0] == "a" and adjective[0] == "n"
    for fact in facts(stored, "head"):
        assert all(int(word[1:]) < 20 for word in roles(fact))
    shown = {word for fact in facts(stored, "train") for word in fact.prompt}
    assert not any(word.startswith("u") for word in shown)


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ParameterError, match="vocabulary_size: 21 is odd"):
        PosIcl(vocabulary_size=21)
    with pytest.raises(ParameterError, match=r"train_rows: 200,000 rows leave none for (id|tail)"):
        build(PosIcl(vocabulary_size=20, exponent=0, train_rows=200_000))
