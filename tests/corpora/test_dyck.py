"""Brackets: nesting, what `gen` never saw, and which brackets are far from those they close, by a stack of words."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.corpora.base import Choosing
from pipeline.corpora.dyck import Dyck
from pipeline.corpora.store import StoredCorpus, build
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import Fact, facts

SIZES = {"types": 5, "depth": 4, "longest": 40, "train_rows": 3000, "id_rows": 200, "gen_rows": 200}


@pytest.fixture(scope="module", params=["string", "part"])
def stored(request: pytest.FixtureRequest) -> StoredCorpus:
    return build(Dyck(unseen=request.param, **SIZES))


def whole(fact: Fact) -> list[str]:
    words = [*fact.prompt, *fact.answer]
    assert words[0] == "<s>" and words[-1] == "<eos>"
    return words[1:-1]


def nesting(words: list[str]) -> str:
    return "".join("(" if word[0] == "(" else ")" for word in words)


def parts(structure: str) -> list[str]:
    """The balanced parts that a structure consists of."""
    found, start, depth = [], 0, 0
    for place, bracket in enumerate(structure):
        depth += 1 if bracket == "(" else -1
        if not depth:
            found.append(structure[start : place + 1])
            start = place + 1
    return found


def distances(words: list[str]) -> list[int]:
    """For each bracket that closes one, how far that is; 0 for those that open."""
    stack, found = [], []
    for place, word in enumerate(words):
        if word[0] == "(":
            stack.append((place, word[1]))
            found.append(0)
        else:
            opened, letter = stack.pop()
            assert letter == word[0] and word[1] == ")"
            found.append(place - opened)
        assert len(stack) <= 4
    assert not stack
    return found


def test_strings_are_balanced_and_answers_close_what_is_open(stored: StoredCorpus) -> None:
    for split in stored.sizes:
        for fact in facts(stored, split):
            words = whole(fact)
            distances(words)
            assert 4 <= len(words) <= 40
            assert all(word[1] == ")" for word in fact.answer[:-1]) and fact.prompt[-1][0] == "("


def test_gen_nests_as_nothing_in_training(stored: StoredCorpus) -> None:
    structures = {split: [nesting(whole(fact)) for fact in facts(stored, split)] for split in stored.sizes}
    corpus = stored.corpus
    assert isinstance(corpus, Dyck)
    if corpus.unseen == "string":
        known = set(structures["train"])
        assert not known & set(structures["gen"]) and set(structures["id"]) <= known
    else:
        blocks = {part for structure in structures["train"] for part in parts(structure)}
        assert all(set(parts(structure)) - blocks for structure in structures["gen"])
        assert all(not set(parts(structure)) - blocks for structure in structures["id"])


def test_brackets_open_and_close_as_often_as_is_said() -> None:
    """Of all strings as they are drawn, before equal ones are left out."""
    from pipeline.utils.draws import Draws

    corpus = Dyck(**{**SIZES, "longest": 200})
    rows = corpus._drawn(4000, Draws(0, "test"))
    counts: Counter[tuple[str, str]] = Counter()
    for row in rows:
        depth = 0
        for place, token in enumerate(row):
            kind = "end" if token == 1 else "open" if token < 7 else "close"
            where = "top" if depth == 4 else "between" if depth else "start" if place < 4 else "ground"
            counts[where, kind] += 1
            if kind == "end":
                break
            depth += 1 if kind == "open" else -1
    assert counts["start", "end"] == counts["top", "open"] == 0
    for where, kinds in (("ground", ("end", "open")), ("between", ("open", "close"))):
        first, second = (counts[where, kind] for kind in kinds)
        assert first / (first + second) == pytest.approx(0.5, abs=0.02)


def test_closing_brackets_are_asked_for_and_those_far_away(stored: StoredCorpus) -> None:
    corpus = stored.corpus
    assert isinstance(corpus, Choosing)
    for block in stored.blocks("gen"):
        asked = corpus.choices(block)
        for row, near, far in zip(
            np.hstack([block.prompts, block.answers]), asked["closing"][0], asked["distant_closing"][0]
        ):
            found = [0, *distances([stored.tokens[token] for token in row[1:-1]]), 0]
            assert near.tolist() == [distance > 0 for distance in found]
            assert far.tolist() == [distance >= 10 for distance in found]
        assert [stored.tokens[token] for token in asked["closing"][1]] == ["a)", "b)", "c)", "d)", "e)"]


def test_more_strings_than_there_are_is_said() -> None:
    with pytest.raises(ParameterError, match=r"rows: 50,000 strings are asked for; [\d,]+ different ones are there"):
        build(Dyck(types=1, depth=2, longest=6, train_rows=50_000))
