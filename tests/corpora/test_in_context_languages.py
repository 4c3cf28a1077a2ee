"""Rows of languages against their automata, walked state by state in plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.corpora.in_context_languages import InContextLanguages
from pipeline.corpora.store import build
from pipeline.utils.errors import ParameterError

PARAMETERS = {
    "symbols": 9, "most_states": 6, "longest": 7, "length": 40, "languages": 12, "ood_languages": 6, "train_rows": 600,
    "test_rows": 80,
}  # fmt: skip
Automaton = dict[int, dict[int, int]]  # state -> symbol -> next state


def automata(corpus: InContextLanguages, purpose: str, count: int) -> list[Automaton]:
    degree, symbol, target = corpus.drawn_languages(count, purpose)
    return [
        {
            state: {int(symbol[number, state, edge]): int(target[number, state, edge]) for edge in range(edges)}
            for state, edges in enumerate(degree[number])
            if edges
        }
        for number in range(count)
    ]


def walk(automaton: Automaton, row: list[int]) -> list[int] | None:
    """The state before each token of a row, -1 before a `|`; None where some string is not of the language."""
    state, states = 0, []
    for token in row:
        states.append(-1 if token == 0 else state)
        if token and token not in automaton[state]:
            return None
        state = automaton[state][token] if token else 0
    return states


def rows_of(stored: Any, split: str) -> list[list[int]]:
    return [row for block in stored.blocks(split) for row in np.hstack([block.prompts, block.answers]).tolist()]


def test_rows_are_strings_of_one_language_and_the_answer_alone_can_follow() -> None:
    corpus = InContextLanguages(**PARAMETERS)
    stored = build(corpus)
    languages = {"train": automata(corpus, "languages", 12), "ood": automata(corpus, "new languages", 6)}
    languages["id"] = languages["train"]
    assert stored.sizes == {"train": 600, "id": 80, "ood": 80}
    seen: dict[str, set[int]] = {}
    for split, known in languages.items():
        for row in rows_of(stored, split):
            fitting = {number: states for number, one in enumerate(known) if (states := walk(one, row)) is not None}
            assert fitting and row[0] == 0 and 20 < len(row) <= 40
            # The answer is the only way on, from where the row went on by it before.
            assert any(
                list(known[number][states[-1]]) == [row[-1]] and states[-1] in states[:-1]
                for number, states in fitting.items()
            )
            assert 0 in row[-4:-1]  # within the first half of the longest string
            lengths = [len(string) for string in "".join(chr(token) for token in row).split(chr(0))[1:-1]]
            assert all(1 <= length <= 7 for length in lengths)
            seen.setdefault(split, set()).update(fitting if len(fitting) == 1 else ())
    lengths = np.bincount([len(row) for row in rows_of(stored, "train")], minlength=41)[21:]
    assert lengths.min() > 10 and lengths.max() < 70  # 30 of each are expected
    assert len(seen["train"]) > 6 and seen["id"] == seen["train"] and len(seen["ood"]) > 2
    new = [walk(one, row) for row in rows_of(stored, "ood") for one in languages["train"]]
    assert sum(states is not None for states in new) < 0.05 * len(new)  # new languages are others


def test_automata_are_drawn_as_they_are_said_to_be() -> None:
    found = automata(InContextLanguages(), "languages", 400)
    states = [len(one) for one in found]
    assert set(states) == set(range(4, 13)) and all(set(one) == set(range(len(one))) for one in found)
    edges = [edges for one in found for edges in one.values()]
    degrees = np.bincount([len(one) for one in edges], minlength=5)[1:] / len(edges)
    assert degrees.tolist() == pytest.approx([0.25] * 4, abs=0.03)
    assert all(state != after for one in found for state, ways in one.items() for after in ways.values())
    assert all(len(set(ways.values())) == len(ways) for ways in edges)
    used = [len({symbol for ways in one.values() for symbol in ways}) for one in found]
    assert min(used) <= 5 and max(used) >= 15
    assert {symbol for ways in edges for symbol in ways} == set(range(1, 19))


def test_edges_are_taken_with_the_same_chance() -> None:
    corpus = InContextLanguages(**{**PARAMETERS, "languages": 1, "train_rows": 3000})
    (automaton,) = automata(corpus, "languages", 1)
    counts: dict[tuple[int, int], int] = {}
    for row in rows_of(build(corpus), "train"):
        for state, token in list(zip(walk(automaton, row) or [], row))[:20]:  # far from the end that was chosen
            counts[state, token] = counts.get((state, token), 0) + 1
    for state, ways in automaton.items():
        taken = [counts.get((state, symbol), 0) for symbol in ways]
        total, share = sum(taken), 1 / len(ways)
        assert total < 100 or [n / total for n in taken] == pytest.approx([share] * len(ways), abs=0.06)


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ParameterError, match="least_states: 7 is more than most_states, 6"):
        InContextLanguages(**{**PARAMETERS, "least_states": 7})
    few = {"symbols": 4, "least_states": 2, "most_states": 2, "longest": 2, "length": 8, "languages": 1}
    with pytest.raises(ParameterError, match="train_rows: 680 different rows are asked for, and there are hardly"):
        build(InContextLanguages(**{**PARAMETERS, **few}))
    with pytest.raises(ParameterError, match="languages: too few of their rows end where one symbol alone can follow"):
        build(InContextLanguages(**{**PARAMETERS, "languages": 1, "most_states": 4, "seed": 7}))
