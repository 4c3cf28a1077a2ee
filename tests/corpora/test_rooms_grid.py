"""Scenes of objects, solved again from their words by trying cells, without coordinates apart or paths."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest

from pipeline.corpora.rooms_grid import FURNITURE, RoomsGrid
from pipeline.corpora.store import build
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import Fact, facts

Cell = tuple[int, int]
COMPASS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0), "same_place": (0, 0),
           "northeast": (1, 1), "northwest": (-1, 1), "southeast": (1, -1), "southwest": (-1, -1)}  # fmt: skip
# Who stands in the door in the south looks north.
SEEN = {"behind": "north", "in_front": "south", "right": "east", "left": "west", "same_spot": "same_place",
        "behind_right": "northeast", "behind_left": "northwest", "front_right": "southeast",
        "front_left": "southwest"}  # fmt: skip
SMALL = {"max_hops": 2, "more_hops": 1, "beside": 0, "names": 6}


def sign(number: int) -> int:
    return (number > 0) - (number < 0)


def is_so(one: Cell, word: str, other: Cell) -> bool:
    """Whether a cell has a relation to another."""
    compass = COMPASS[SEEN.get(word, word)]
    return (sign(one[0] - other[0]), sign(one[1] - other[1])) == compass


def is_in(cell: Cell, word: str, grid: int) -> bool:
    """Whether a cell lies in a ninth of the room, or at a wall of it."""
    if word in ("at", "off"):
        return any(part in (0, grid - 1) for part in cell) == (word == "at")
    compass = (0, 0) if word == "middle" else COMPASS[SEEN.get(word, word)]
    return tuple(3 * part // grid - 1 for part in cell) == compass


def arrangements(told: list[tuple[str, str, str]], names: list[str], grid: int) -> Iterator[dict[str, Cell]]:
    """All places of the objects that fit the facts, one object after the other."""

    def further(placed: dict[str, Cell]) -> Iterator[dict[str, Cell]]:
        if len(placed) == len(names):
            yield placed
            return
        name = names[len(placed)]
        for cell in itertools.product(range(grid), repeat=2):
            now = {**placed, name: cell}
            if all(
                is_in(now[one], word, grid) if other == "" else is_so(now[one], word, now[other])
                for one, word, other in told
                if one in now and (other in now or other == "")
            ):
                yield from further(now)

    return further({})


def read(fact: Fact) -> tuple[list[tuple[str, str, str]], list[str], str, list[str]]:
    """What a prompt tells, its objects, the view that is asked for, and the words of the question."""
    question = next(place for place, word in enumerate(fact.prompt) if word in ("where", "could"))
    words, view, asked = fact.prompt[: question - 1], fact.prompt[question - 1], list(fact.prompt[question:-1])
    assert fact.prompt[-1] == "=" and view in ("above", "door") and len(words) % 3 == 0
    told = [
        (one, {"in": third, "at": "at", "off": "off"}[second], "")
        if second in ("in", "at", "off")
        else (one, second, third)
        for one, second, third in zip(words[::3], words[1::3], words[2::3])
    ]
    names = [told[0][2], *(one for one, _, other in told if other)]
    assert set(names) == {word for word in words if word in FURNITURE} and len(set(names)) == len(names)
    return told, names, view, asked


def solved(fact: Fact, grid: int) -> set[str]:
    """The words for all relations that the object asked for has in some arrangement."""
    told, names, view, asked = read(fact)
    one, other = asked[1], asked[-1]
    words = COMPASS if view == "above" else SEEN
    found = set()
    for cells in arrangements(told, names, grid):
        found |= {word for word in words if is_so(cells[one], word, cells[other])}
        if len(found) == len(words):
            break
    return found


@pytest.mark.parametrize(
    "parameters",
    [
        # In a small room a long chain meets the walls.
        {"grid": 3, "train_rows": 36, "test_rows": 12, "questions": ("where",)},
        {"grid": 5, "zones": True, "train_rows": 48, "test_rows": 16, "seed": 1},
        {"grid": 4, "walls": 2, "train_rows": 36, "test_rows": 12, "questions": ("where",), "seed": 2},
        {"grid": 5, "walls": 3, "zones": True, "train_rows": 24, "test_rows": 12, "seed": 3},
    ],
)
def test_answers_are_those_of_all_arrangements(parameters: dict[str, int | float]) -> None:
    corpus = RoomsGrid(**{**SMALL, **parameters})
    stored, order = build(corpus), corpus.vocabulary()
    sizes = Counter[int]()
    for split in stored.sizes:
        for fact in facts(stored, split):
            allowed = solved(fact, corpus.grid)
            question = read(fact)[3]
            if question[0] == "could":
                assert fact.answer == ("yes" if question[2] in allowed else "no",)
            else:
                assert fact.answer == (*sorted(allowed, key=order.index), ".")
                sizes[len(allowed)] += 1
    assert sizes[1] and sizes[3]  # with zones, other sizes too


def test_zones_leave_sets_that_directions_do_not() -> None:
    corpus = RoomsGrid(**{**SMALL, "beside": 1, "grid": 6, "zones": True, "train_rows": 400, "questions": ("where",)})
    sizes = {len(fact.answer) - 1 for fact in facts(build(corpus), "train")}
    assert {1, 2, 3} <= sizes


def test_walls_leave_sets_that_directions_do_not() -> None:
    corpus = RoomsGrid(**{**SMALL, "beside": 1, "grid": 4, "walls": 3, "train_rows": 400, "questions": ("where",)})
    told = list(facts(build(corpus), "train"))
    assert {1, 2, 3, 5, 7} <= {len(fact.answer) - 1 for fact in told}  # directions alone leave 1, 3 or 9
    words = Counter(word for fact in told for word in fact.prompt)
    assert words["wall"] == 3 * len(told) == words["at"] + words["off"] and words["at"] > 50 < words["off"]


def test_splits_are_what_their_names_say() -> None:
    corpus = RoomsGrid(beside=1, new_names=3, train_rows=2000, test_rows=60)
    stored = build(corpus)
    trained_scenes, answers = set(), Counter[str]()
    for split in stored.sizes:
        for fact in facts(stored, split):
            told, names, view, asked = read(fact)
            # Neighbours in a chain: each names the one before.
            assert [(one, other) for one, _, other in told] == list(zip(names[1:], names))
            hops = names.index(asked[1]) - names.index(asked[-1])
            assert fact.type == f"{asked[0]}_{hops}" and hops >= 2
            views = {"door" if word in SEEN else "above" for _, word, _ in told}
            kind, _, number = split.partition("_")
            if split == "mixed":
                assert view == "above" and hops <= 3 and len(names) - hops in (1, 2)
            else:
                assert views == {view}
                assert len(names) - hops in ((3, 4) if split == "objects" else (1, 2))
            new = set(names) - set(FURNITURE[: corpus.names])
            assert new == ({asked[1], asked[-1]} if split == "new_names" else set())
            if kind in ("above", "door"):
                assert view == kind and hops == int(number)
            elif split in ("objects", "new_names"):
                assert view == "above" and hops <= 3
            elif split in ("train", "id"):
                assert hops <= {"above": 3, "door": 2}[view]
            if split == "train":
                trained_scenes.add((view, hops, len(names), asked[0]))
            if asked[0] == "could":
                answers[fact.answer[0]] += 1
    # Scenes of 3 and 4 objects for 2 hops from above, and from the door, of 4 and 5 for 3 hops; two questions each.
    assert len(trained_scenes) == 2 * (2 + 2 + 2)
    assert 0.5 < answers["yes"] / answers.total() < 0.6  # where all nine fit, there is no other question
    assert any(len({word in SEEN for _, word, _ in read(fact)[0]}) == 2 for fact in facts(stored, "mixed"))


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"names": 7}, "names"),
        ({"max_hops": 1}, "max_hops"),
        ({"max_hops": 6, "more_hops": 4}, "names"),
        ({"questions": ("wher",)}, "questions"),
        ({"questions": ("where", "where")}, "questions"),
        ({"names": 21}, "names"),
        ({"new_names": 1}, "new_names"),
        ({"names": 17, "new_names": 4}, "new_names"),
    ],
)
def test_what_cannot_be_drawn_is_named(parameters: dict[str, object], key: str) -> None:
    with pytest.raises(ParameterError) as error:
        RoomsGrid(**parameters)
    assert error.value.key == key and "\n" not in str(error.value)


def test_without_new_names_there_is_no_such_split_and_the_rest_stays() -> None:
    corpus = RoomsGrid(**{**SMALL, "train_rows": 200, "test_rows": 10, "new_names": 2})
    plain = RoomsGrid(**{**SMALL, "train_rows": 200, "test_rows": 10})
    one, other = build(corpus), build(plain)
    assert set(one.sizes) - set(other.sizes) == {"new_names"}
    assert set(corpus.vocabulary()) - set(plain.vocabulary()) == set(FURNITURE[6:8])
    for split in other.sizes:
        assert [fact.prompt for fact in facts(one, split)] == [fact.prompt for fact in facts(other, split)]
