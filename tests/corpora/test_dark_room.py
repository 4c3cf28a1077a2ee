"""Histories in a dark room, walked again step by step from their words."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from pipeline.corpora.dark_room import DarkRoom
from pipeline.corpora.store import build
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import Fact, facts

ROOM = {"size": 5, "steps": 6, "learning_episodes": 30, "episodes": 4, "histories": 120, "test_histories": 24}
WAYS = {"stay": (0, 0), "up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}


def cell(word: str) -> tuple[int, int]:
    row, column = map(int, word.split(","))
    return row, column


def walked(fact: Fact, size: int, steps: int, episodes: int) -> tuple[set[tuple[int, int]], list[int]]:
    """The goals that a history allows, and what it gains in each episode, every step being checked."""
    words = [*fact.prompt, *fact.answer, ""]
    assert len(words) == 3 * steps * episodes
    goals = {(row, column) for row in range(size) for column in range(size)} - {(size // 2, size // 2)}
    gained = [0] * episodes
    for number in range(steps * episodes):
        at, move, reward = words[3 * number : 3 * number + 3]
        if number % steps == 0:
            assert cell(at) == (size // 2, size // 2)
        ends = tuple(min(max(part + step, 0), size - 1) for part, step in zip(cell(at), WAYS[move]))
        if (number + 1) % steps:
            assert cell(words[3 * number + 3]) == ends
        if reward:
            goals = goals & {ends} if reward == "1" else goals - {ends}
            gained[number // steps] += reward == "1"
    return goals, gained


def test_coordinates_tell_the_same_histories() -> None:
    words, coordinates = (build(DarkRoom(**ROOM, cells=cells)) for cells in ("word", "coordinates"))
    for split in words.sizes:
        for one, other in zip(facts(words, split), facts(coordinates, split), strict=True):
            told = [",".join(part.partition("_")[2] for part in pair) for pair in zip(other.prompt, other.prompt[1:])]
            cells = [pair for pair, word in zip(told, other.prompt) if word.startswith("row_")]
            assert cells == [word for word in one.prompt if "," in word]
            assert one.answer == other.answer


@pytest.mark.parametrize("order", ["learning", "shuffled", "expert"])
def test_histories_are_walks_of_agents_that_learn(order: str) -> None:
    corpus = DarkRoom(**ROOM, order=order)
    stored = build(corpus)
    gained, known = [], defaultdict(set)
    for split in stored.sizes:
        for fact in facts(stored, split):
            goals, of_history = walked(fact, 5, 6, 4)
            assert goals  # one goal explains all rewards
            gained.append(of_history)
            if len(goals) == 1:
                known[split] |= goals
    first, _, third, _ = np.mean(gained, axis=0)  # the last reward of the fourth is no part of a history
    if order == "learning":
        assert third > first + 1
    elif order == "shuffled":
        assert abs(third - first) < 0.6
    else:
        assert first > 1.5 and abs(third - first) < 0.4
    # 20 of 24 goals are trained, and the others are those of `unseen` alone.
    assert len(known["train"]) == 20 and known["id"] <= known["train"]
    assert len(known["unseen"]) <= 4 and not known["unseen"] & known["train"]


def test_what_a_model_acts_in_is_what_histories_are_of() -> None:
    corpus = DarkRoom(**ROOM)
    words = corpus.vocabulary()
    goals = np.array([words.index("0,2"), words.index("4,4"), words.index("2,1")])
    seen = corpus.begin(goals)
    assert [words[at] for at in seen] == ["2,2"] * 3
    told = []
    for moves in (["up", "down", "left"], ["up", "down", "stay"], ["up", "right", "left"], ["stay", "right", "right"]):
        rewards, seen = corpus.act(goals, seen, np.array([words.index(move) for move in moves]))
        told.append([(words[at], words[reward]) for at, reward in zip(seen, rewards)])
        assert corpus.gain(rewards).tolist() == [int(words[reward]) for reward in rewards]
    assert told == [
        [("1,2", "0"), ("3,2", "0"), ("2,1", "1")],
        [("0,2", "1"), ("4,2", "0"), ("2,1", "1")],
        [("0,2", "1"), ("4,3", "0"), ("2,0", "0")],
        [("0,2", "1"), ("4,4", "1"), ("2,1", "1")],
    ]
    assert corpus.best(goals).tolist() == [5, 3, 6]  # of six steps, those from the first that can end there
    assert [words[action] for action in corpus.actions] == list(WAYS)
    assert corpus.observe(seen).tolist() == seen[:, None].tolist()  # cells are words
    told = DarkRoom(**ROOM, cells="coordinates")
    names = [[told.vocabulary()[word] for word in row] for row in told.observe(seen)]
    assert names == [["row_0", "column_2"], ["row_4", "column_4"], ["row_2", "column_1"]]
    trained, unseen = (set(corpus.goals(split).tolist()) for split in ("train", "unseen"))
    assert len(trained) == 20 and len(unseen) == 4 and not trained & unseen
    assert corpus.start not in trained | unseen


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"episodes": 31}, "episodes"),
        ({"trained_goals": 0.01}, "trained_goals"),
        ({"size": 2, "steps": 1, "episodes": 1, "histories": 900, "trained_goals": 0.5}, "order"),
        ({"size": 1}, "size"),
    ],
)
def test_what_cannot_be_drawn_is_named(parameters: dict[str, float], key: str) -> None:
    with pytest.raises(ParameterError) as error:
        DarkRoom(**{**ROOM, **parameters}).splits()
    assert error.value.key == key and "\n" not in str(error.value)
