"""Rooms seen from above or from the door: where is one object from another, as the facts about them allow.

Li, Hogg & Cohn 2024, "Reframing Spatial Reasoning Evaluation in Language Models" (RoomSpace, arXiv 2405.15064), with
scenes that are drawn, not taken from a simulator; facts are on neighbours in a chain, on zones and on the room's walls,
not on distances.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.config.fields import param
from pipeline.corpora._arrangements import Consistent, consistent
from pipeline.corpora.base import Corpus, Examples, Ids, unique_rows
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError
from pipeline.utils.suggest import did_you_mean

NAMES = (
    "chair table bed lamp desk shelf sofa plant mirror stool bench chest clock piano stove sink rug crib easel globe"
)
FURNITURE = NAMES.split()
# Relation 3 (x + 1) + (y + 1) is to be x to the east and y to the north, each -1, 0 or 1; the door is in the south.
ABOVE = ("southwest", "west", "northwest", "south", "same_place", "north", "southeast", "east", "northeast")
DOOR = ("front_left", "left", "behind_left", "in_front", "same_spot", "behind", "front_right", "right", "behind_right")
VIEWS = ("above", "door")
QUESTIONS = ("where", "could")
SIGNS = (*VIEWS, *QUESTIONS, "in", "=", "yes", "no", ".")
WALLS = ("at", "off", "wall")
RELATIONS = len(ABOVE)
MORE = 2  # objects in a scene than are trained, at most


@dataclass(frozen=True)
class RoomsGrid(Corpus):
    """Objects on a grid, told of by facts on neighbours in a chain: `chair north lamp`, the chair is north of the lamp.

    `above where bed lamp =` asks for all relations of the bed to the lamp that are consistent with the facts, in the
    order of the vocabulary (`west northwest .`); `above could bed west lamp =` whether one is. As many facts as the
    question has hops lead from one object to the other. What is seen from the door is told and asked in other words,
    such as `behind_left`. Each coordinate of the objects between is in order with probability `ordered`, or else many
    hops would leave nearly every relation open.

    Splits: `id`, distributed as `train` is; `above_K` and `door_K`, questions of K hops, of which those from above are
    trained up to `max_hops`, and those from the door with two; `objects`, with one or two objects more than are
    trained beside the way; `mixed`, facts as seen from either place, asked from above; and with `new_names` the split
    of that name, where the two objects that are asked about are called by words that no trained scene has.
    """

    grid: int = param(12, "cells on a side of the room", ge=2, le=99)
    names: int = param(12, "objects that there are", ge=3, le=len(FURNITURE))
    new_names: int = param(0, "further ones, which `new_names` alone has; 0: there is no such split", ge=0)
    max_hops: int = param(3, "of trained questions from above; from two on", ge=2, le=6)
    more_hops: int = param(2, "further ones of questions that are held out", ge=0, le=4)
    beside: int = param(2, "most objects of a trained scene that are not on the way; 0 in the paper", ge=0, le=6)
    zones: bool = param(False, "facts say in which ninth of the room each object is")
    walls: int = param(
        0, "objects of a scene of which facts say whether they touch a wall, `chair at wall`, or none", ge=0, le=3
    )
    questions: tuple[str, ...] = param(QUESTIONS, f"of {', '.join(QUESTIONS)}")
    ordered: float = param(
        0.6, "probability that a coordinate rises or falls all along the way of a question", ge=0, le=1
    )
    train_rows: int = param(20_000, "about so many trained questions", ge=1)
    test_rows: int = param(500, "about so many of each held-out split", ge=1)
    seed: int = param(0, "of the scenes", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {
        "names": 10, "new_names": 2, "max_hops": 2, "more_hops": 1, "beside": 1, "train_rows": 200, "test_rows": 20,
    }  # fmt: skip
    separator: ClassVar[str] = " "
    citation: ClassVar[str] = "Li, Hogg & Cohn 2024, arXiv 2405.15064"

    def __post_init__(self) -> None:
        super().__post_init__()
        if odd := [question for question in self.questions if question not in QUESTIONS]:
            raise ParameterError("questions", f"there is no question {odd[0]!r}{did_you_mean(odd[0], QUESTIONS)}")
        if not self.questions or len(set(self.questions)) < len(self.questions):
            raise ParameterError("questions", "are none, or one twice")
        most = self.max_hops + 1 + self.beside + max(self.more_hops, MORE)
        if self.new_names == 1 or self.names + self.new_names > len(FURNITURE):
            raise ParameterError(
                "new_names",
                f"{self.new_names} is neither 0 nor from 2 to {len(FURNITURE) - self.names}: questions are about two "
                f"objects, and there are {len(FURNITURE)} in all",
            )
        if self.names < most:
            raise ParameterError("names", f"{self.names} are too few for scenes of {most} objects; >= {most}")

    @property
    def held_out(self) -> tuple[str, ...]:
        return ("id", *(f"{view}_{k}" for view in VIEWS for k in self._hops), "objects", "mixed", *self._of_new_names)

    @property
    def _of_new_names(self) -> tuple[str, ...]:
        return ("new_names",) if self.new_names else ()

    def vocabulary(self) -> list[str]:
        return [*ABOVE, *DOOR, *FURNITURE[: self.names], *SIGNS, "middle", *self._further]

    @property
    def _further(self) -> list[str]:
        """Words that not all corpora have."""
        return [*(WALLS if self.walls else ()), *FURNITURE[self.names :][: self.new_names]]

    def _word(self, word: str) -> int:
        return 2 * RELATIONS + self.names + [*SIGNS, "middle", *self._further].index(word)

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        most = {"above": self.max_hops, "door": 2}
        found: dict[str, list[Examples]] = {split: [] for split in ("train", *self.held_out)}
        cells = {(view, hops): self._shapes(hops, 0) for view in VIEWS for hops in self._hops}
        trained = max(1, self.train_rows // sum(len(cells[view, k]) for view, k in cells if k <= most[view]))
        for (view, hops), shapes in cells.items():
            is_trained = hops <= most[view]
            tested = max(1, self.test_rows // len(shapes))
            for question, n in shapes:
                rows = self._rows(question, view, n, hops, tested + is_trained * trained)
                found[f"{view}_{hops}"] += self._blocks(rows[:tested], question, n, hops)
                if is_trained:
                    found["id"] += self._blocks(rows[:tested], question, n, hops)
                    found["train"] += self._blocks(rows[tested:], question, n, hops)
        others = [("objects", "above", MORE), ("mixed", "mixed", 0), *((new, new, 0) for new in self._of_new_names)]
        for split, view, more in others:
            kinds = [(hops, *shape) for hops in range(2, self.max_hops + 1) for shape in self._shapes(hops, more)]
            for hops, question, n in kinds:
                rows = self._rows(question, view, n, hops, max(1, self.test_rows // len(kinds)))
                found[split] += self._blocks(rows, question, n, hops)
        return found

    @property
    def _hops(self) -> range:
        return range(2, self.max_hops + self.more_hops + 1)

    def _shapes(self, hops: int, more: int) -> list[tuple[str, int]]:
        """Questions and numbers of objects: as in training, or with up to so many more than there."""
        least = hops + 1 + (self.beside + 1 if more else 0)
        return [(question, n) for n in range(least, hops + 2 + self.beside + more) for question in self.questions]

    def _blocks(self, rows: Ids, question: str, n: int, hops: int) -> list[Examples]:
        """The rows of one shape of prompts as examples, by how long their answers are."""
        prompt = self._prompt_length(question, n)
        lengths = (rows[:, prompt:] >= 0).sum(1)
        return [
            Examples(some[:, :prompt], some[:, prompt : prompt + length], f"{question}_{hops}")
            for length in np.unique(lengths).tolist()
            for some in [rows[lengths == length]]
        ]

    def _prompt_length(self, question: str, n: int) -> int:
        return 3 * (n - 1) + 3 * n * self.zones + 3 * self.walls + (5 if question == "where" else 6)

    def _rows(self, question: str, view: str, n: int, hops: int, count: int) -> Ids:
        """Prompts with answers that are padded with -1, all different."""

        def draw(count: int, draws: Draws) -> Ids:
            return self._drawn(question, view, n, hops, count, draws)

        return unique_rows(
            draw, count, self._prompt_length(question, n), self.seed, f"rooms {question} {view} {n} {hops}"
        )

    def _drawn(self, question: str, view: str, n: int, hops: int, count: int, draws: Draws) -> Ids:
        cells = draws.below(self.grid, count, n, 2)
        way = draws.below(n - hops, count)[:, None] + np.arange(hops + 1)
        for axis in range(2):
            order = np.take_along_axis(cells[:, :, axis], way, 1)
            is_ordered, falls = draws.uniform(2, count)[:, :, None] < np.array([self.ordered, 0.5])[:, None, None]
            rising = np.sort(order, axis=1)
            order = np.where(is_ordered, np.where(falls, rising[:, ::-1], rising), order)
            np.put_along_axis(cells[:, :, axis], way, order, 1)
        objects = 2 * RELATIONS + draws.uniform(count, self.names).argsort(1, kind="stable")[:, :n]
        if view == "new_names":
            new = draws.uniform(count, self.new_names).argsort(1, kind="stable")[:, :2]
            np.put_along_axis(objects, way[:, [0, -1]], new + self._word(FURNITURE[self.names]), 1)
        from_door = draws.below(2, count, 2 * n) if view == "mixed" else np.full((count, 2 * n), int(view == "door"))
        if view == "mixed":
            from_door[:, 1] = 1 - from_door[:, 0]  # or the scene might be one seen from above

        # The chain says of each object where it is from the one before.
        steps = np.sign(np.diff(cells, axis=1))
        facts = [objects[:, 1:], _relation(steps) + RELATIONS * from_door[:, : n - 1], objects[:, :-1]]
        parts = [np.stack(facts, 2).reshape(count, -1)]
        thirds = None
        if self.zones:
            thirds = 3 * cells // self.grid - 1
            word = np.where(
                (thirds == 0).all(2), self._word("middle"), _relation(thirds) + RELATIONS * from_door[:, n:]
            )
            parts.append(np.stack([objects, np.full_like(word, self._word("in")), word], 2).reshape(count, -1))
        walls = None
        if self.walls:
            told = draws.uniform(count, n).argsort(1, kind="stable")[:, : self.walls]
            touches = np.take_along_axis(((cells == 0) | (cells == self.grid - 1)).any(2), told, 1)
            walls = told, touches
            at, off, wall = map(self._word, WALLS)
            named = np.take_along_axis(objects, told, 1)
            parts.append(np.stack([named, np.where(touches, at, off), np.full_like(named, wall)], 2).reshape(count, -1))
        allowed = consistent(steps, thirds, self.grid, way[:, 0], way[:, -1], walls)

        asked_from = "door" if view == "door" else "above"
        first, last = (np.take_along_axis(objects, way[:, [end]], 1) for end in (0, -1))
        start, end = (np.full((count, 1), self._word(word)) for word in (asked_from, "="))
        kind = np.full((count, 1), self._word(question))
        shift = RELATIONS * (asked_from == "door")
        if question == "where":
            answers = _listed(allowed, shift, self._word("."))
            return np.hstack([*parts, start, kind, last, first, end, answers]).astype(np.int32)
        # Half of the relations that are asked for are consistent, but where all nine are.
        wanted = np.where((draws.uniform(count) < 0.5)[:, None], allowed, ~allowed)
        wanted |= ~wanted.any(1, keepdims=True)
        asked = np.where(wanted, draws.uniform(count, RELATIONS), -1.0).argmax(1)[:, None]
        answers = np.where(np.take_along_axis(allowed, asked, 1), self._word("yes"), self._word("no"))
        return np.hstack([*parts, start, kind, last, asked + shift, first, end, answers]).astype(np.int32)


def _relation(signs: Numbers) -> Numbers:
    """The number of the relation that is so much to the east and to the north, (..., 2) -> (...)."""
    return np.asarray(3 * (signs[..., 0] + 1) + signs[..., 1] + 1)


def _listed(allowed: Consistent, shift: int, end: int) -> Numbers:
    """Sets of relations (n, 9) as their words in order and `end`, padded with -1, (n, 10)."""
    count = allowed.sum(1)[:, None]
    order = np.argsort(~allowed, axis=1, kind="stable") + shift
    place = np.arange(RELATIONS + 1)
    return np.where(place < count, np.pad(order, ((0, 0), (0, 1))), np.where(place == count, end, -1))
