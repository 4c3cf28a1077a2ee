"""A model that acts: what it is asked, what it gains, and which tokens of its histories are trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.corpora.dark_room import DarkRoom
from pipeline.corpora.store import build
from pipeline.data.histories import Histories, returns
from pipeline.data.labels import IGNORED
from pipeline.data.rows import load_rows
from pipeline.objectives.actions import Actions
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import facts

ROOM = DarkRoom(size=5, steps=6, learning_episodes=30, episodes=3, histories=60, test_histories=12)


def test_a_policy_gains_what_its_way_is_worth() -> None:
    words = ROOM.vocabulary()
    goals = np.array([words.index("0,2"), words.index("2,3"), words.index("4,4")])
    asked = []

    def choose(history: Any) -> Any:
        """Up in the first episode, then to the right and back, then nowhere."""
        asked.append(history.copy())
        episode, step = divmod(history.shape[1] // 3, 6)
        move = ("up", ("right", "left")[step % 2], "stay")[episode]
        return np.full(len(history), words.index(move))

    gained = returns(ROOM, goals, choose)
    # Up: there at the second step of six, of five that are possible. Right and left: there in three steps of six.
    assert gained.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]]
    assert [history.shape for history in asked] == [(3, 3 * number + 1) for number in range(18)]
    told = "2,2 up 0 1,2 up 0 0,2 up 0 0,2 up 0 0,2 up 0 0,2 up 0 2,2 right 1 2,3 left 0 2,2"
    assert " ".join(words[token] for token in asked[8][1]) == told


def test_the_moves_are_trained_and_nothing_else() -> None:
    stored = build(ROOM)
    rows = Actions().rows(load_rows(stored, "train"), stored, range(len(stored.tokens)))
    assert isinstance(rows, Histories) and not rows.shape.is_even
    (batch,) = rows.pieces(torch.arange(4))
    words = ROOM.vocabulary()
    for row, labels, positions, fact in zip(
        batch["input_ids"], batch["labels"], batch["positions"], facts(stored, "train")
    ):
        history = [*fact.prompt, *fact.answer]
        trained = [(int(at), words[label]) for at, label in zip(positions, labels) if label != IGNORED]
        assert trained == [(at, history[at + 1]) for at in range(0, len(history) - 1, 3)]
        assert [words[token] for token in row] == history[:-1]


def test_a_corpus_without_an_agent_is_refused(tmp_path: Any) -> None:
    from pipeline.corpora.group import Group

    stored = build(Group(group="Z5"))
    with pytest.raises(ParameterError, match="actions needs histories of an agent"):
        Actions().rows(load_rows(stored, "train"), stored, range(len(stored.tokens)))
    histories = build(ROOM)
    with pytest.raises(ParameterError, match=r"model\.vocabulary: tokens"):
        Actions().rows(load_rows(histories, "train"), histories, None)
