"""Drawings of concepts: worked out again from the words of the prompt, with the signal of each concept counted."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.corpora.base import Conceptual
from pipeline.corpora.concept_grid import ConceptGrid
from pipeline.corpora.store import StoredCorpus, build
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import facts

CORPUS = ConceptGrid(
    colour_signal=3, size_signal=5, underspecified=0.4, positions=20, train_rows=300, held_out_rows=25, seed=3
)


@pytest.fixture(scope="module")
def stored() -> StoredCorpus:
    return build(CORPUS)


CLASSES = ((0, 0), (0, 1), (1, 0), (1, 1))


def drawing(x: int, y: int, colour: str, size: str) -> tuple[str, str]:
    return f"{colour if x % 8 < 3 else 'plain'}{x % 8}", f"{size if y % 8 < 5 else 'middling'}{y % 8}"


@pytest.mark.parametrize("split", ["train", "id", "ood"])
def test_drawings_follow_from_words_and_places(stored: StoredCorpus, split: str) -> None:
    unsaid = 0
    for fact in facts(stored, split):
        x, y, *said, arrow = fact.prompt
        words = (["red", "blue"][int(fact.type[0])], ["small", "big"][int(fact.type[1])])
        assert x[0] == "x" and y[0] == "y" and arrow == "->"
        assert fact.answer == drawing(int(x[1:]), int(y[1:]), *words)
        hidden = [i for i in (0, 1) if said[i] != words[i]]
        assert len(hidden) <= 1 and all(said[i] == "?" for i in hidden)
        unsaid += len(hidden)
    share = unsaid / stored.sizes[split]
    assert share == pytest.approx(0.4, abs=0.05) if split == "train" else share == 0


def test_blue_and_big_is_never_shown(stored: StoredCorpus) -> None:
    kinds = ("00", "01", "10", "11")
    types = {split: [fact.type for fact in facts(stored, split)] for split in stored.sizes}
    counts = {split: {kind: found.count(kind) for kind in kinds} for split, found in types.items()}
    assert counts["train"] == {"00": 300, "01": 300, "10": 300, "11": 0}
    assert counts["id"] == {"00": 25, "01": 25, "10": 25, "11": 0}
    assert counts["ood"] == {"00": 0, "01": 0, "10": 0, "11": 25}
    assert not [fact for fact in facts(stored, "train") if {"blue", "big"} <= set(fact.prompt)]


def test_a_concept_changes_as_many_drawings_as_its_signal(stored: StoredCorpus) -> None:
    """Of all places, by the words of the rows alone."""
    many = ConceptGrid(colour_signal=3, size_signal=5, positions=16, train_rows=255, held_out_rows=1)
    every = facts(build(many), "train")
    drawn = {(fact.prompt[:2], fact.type): fact.answer for fact in every}
    for kind, place, share in (("10", 0, 3 / 8), ("01", 1, 5 / 8)):
        both = [(drawn[at, "00"], drawn[at, kind]) for at, other in drawn if other == "00" and (at, kind) in drawn]
        changed = [one[place] != two[place] for one, two in both]
        assert np.mean(changed) == pytest.approx(share, abs=0.01) and len(both) > 250
        assert all(one[1 - place] == two[1 - place] for one, two in both)


def test_prompts_of_all_combinations_are_at_places_that_show_both(stored: StoredCorpus) -> None:
    assert isinstance(CORPUS, Conceptual)
    words = {values: [[stored.tokens[i] for i in row] for row in CORPUS.prompts(values)] for values in CLASSES}
    assert [tuple(row) for row in words[1, 1]] == [fact.prompt for fact in facts(stored, "ood")]
    for values, rows in words.items():
        for row, base in zip(rows, words[0, 0]):
            assert [i for i in range(5) if row[i] != base[i]] == [2 + i for i in (0, 1) if values[i]]
            assert int(row[0][1:]) % 8 < 3 and int(row[1][1:]) % 8 < 5
    shades = [[[stored.tokens[i] for i in tokens] for tokens in values] for values in CORPUS.concept_tokens]
    names = (("red", "blue"), ("small", "big"))
    assert shades == [[[f"{word}{i}" for i in range(8)] for word in pair] for pair in names]


def test_more_rows_than_places_are_refused() -> None:
    with pytest.raises(ParameterError, match="train_rows: 65 rows of a combination, trained and held out, of 64"):
        ConceptGrid(positions=8, train_rows=60, held_out_rows=5)
