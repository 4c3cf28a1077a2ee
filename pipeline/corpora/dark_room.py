"""Histories of an agent that learns where an unseen goal is: Dark Room, for learning to reinforce in context.

The task of Laskin et al. 2022, "In-context Reinforcement Learning with Algorithm Distillation" (arXiv 2210.14215),
section 4, on which the line of Vintix (Polubarov et al. 2025, arXiv 2501.19400) builds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples, Ids
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError

MOVES = {"stay": (0, 0), "up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}
# Of the tabular Q-learning that writes the histories: its rate, discount, and the share of episodes that explore.
RATE, DISCOUNT, EXPLORING = 0.9933, 0.6238, 0.9


@dataclass(frozen=True)
class DarkRoom(Corpus):
    """An agent walks in a room, begins in the middle, and gets 1 for every step that ends on a goal it cannot see.

    A history is `2,2 right 0 2,3 up 1 ...`: cell (row, column), move and reward of all steps of some episodes of one
    agent, spread evenly over its learning (`learning`), from the end of it (`expert`), or in random order (`shuffled`).
    A prompt is a history up to the last cell, and the answer is the last move; the objective `actions` trains every
    move. Goals are all cells but that in the middle.

    Splits: `id`, other histories of goals that are trained; `unseen`, histories of goals that are not. The callback
    `in_context_return` lets the model act.
    """

    size: int = param(9, "cells on a side of the room", ge=2, le=30)
    steps: int = param(20, "of an episode", ge=1)
    learning_episodes: int = param(200, "of an agent", ge=1)
    episodes: int = param(6, "of a history", ge=1)
    order: Literal["learning", "expert", "shuffled"] = param(
        "learning", "which episodes a history has, and in what order"
    )
    histories: int = param(1000, "that are trained, by agents whose goals take turns", ge=1)
    test_histories: int = param(100, "of each held-out split", ge=1)
    cells: Literal["word", "coordinates"] = param(
        "word", "how a cell is told: in one word, or as its row and its column"
    )
    trained_goals: float = param(0.85, "share of the goals", gt=0, lt=1)
    seed: int = param(0, "of goals and agents", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {
        "size": 3, "steps": 3, "learning_episodes": 8, "episodes": 2, "histories": 60, "test_histories": 20,
    }  # fmt: skip
    separator: ClassVar[str] = " "
    citation: ClassVar[str] = "Laskin et al. 2022, arXiv 2210.14215; Polubarov et al. 2025, arXiv 2501.19400"
    held_out: ClassVar[tuple[str, ...]] = ("id", "unseen")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.episodes > self.learning_episodes:
            raise ParameterError(
                "episodes", f"{self.episodes} are more than learning_episodes, {self.learning_episodes}"
            )
        if not 0 < round(self.trained_goals * len(self._every_goal)) < len(self._every_goal):
            raise ParameterError(
                "trained_goals", f"{self.trained_goals:g} of {len(self._every_goal)} goals trains all of them or none"
            )

    @property
    def start(self) -> int:
        """The cell in the middle."""
        return (self.size // 2) * (self.size + 1)

    @property
    def _every_goal(self) -> Numbers:
        return np.delete(np.arange(self.size**2), self.start)

    def vocabulary(self) -> list[str]:
        numbers = range(self.size)
        if self.cells == "word":
            cells = [f"{row},{column}" for row in numbers for column in numbers]
        else:
            cells = [f"{name}_{number}" for name in ("row", "column") for number in numbers]
        return [*cells, *MOVES, "0", "1"]

    @property
    def actions(self) -> Sequence[int]:
        first = self.size**2 if self.cells == "word" else 2 * self.size
        return range(first, first + len(MOVES))

    def goals(self, split: str) -> Numbers:
        every = self._every_goal
        order = Draws(self.seed, "dark room goals").permutation(len(every))
        trained = round(self.trained_goals * len(every))
        return every[order[trained:] if split == "unseen" else order[:trained]]

    def begin(self, goals: Numbers) -> Numbers:
        return np.full(len(goals), self.start)

    def observe(self, states: Numbers) -> Numbers:
        row, column = np.divmod(states, self.size)
        return states[:, None] if self.cells == "word" else np.stack([row, self.size + column], 1)

    def act(self, goals: Numbers, states: Numbers, actions: Numbers) -> tuple[Numbers, Numbers]:
        """Move, and stay where a wall is."""
        moves = np.array(list(MOVES.values()))[actions - self.actions[0]].T
        row, column = (np.stack(np.divmod(states, self.size)) + moves).clip(0, self.size - 1)
        states = row * self.size + column
        return self.actions[-1] + 1 + (states == goals), states

    def gain(self, rewards: Numbers) -> Numbers:
        return rewards - (self.actions[-1] + 1)

    def best(self, goals: Numbers) -> Numbers:
        away = [
            np.abs(part - middle) for part, middle in zip(np.divmod(goals, self.size), divmod(self.start, self.size))
        ]
        return np.maximum(self.steps + 1 - sum(away), 0)

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        counts = {"train": self.histories, "id": self.test_histories, "unseen": self.test_histories}
        every = self._histories(np.concatenate([np.resize(self.goals(split), counts[split]) for split in counts]))
        found = dict(zip(counts, np.split(every, np.cumsum(list(counts.values()))[:-1])))
        known = {row[:-1].tobytes() for row in found["train"]}
        for split in self.held_out:  # where agents are sure of their ways, some write the same histories
            found[split] = found[split][[row[:-1].tobytes() not in known for row in found[split]]]
            if not len(found[split]):
                raise ParameterError(
                    "order", f"{self.order}: every history of {split} is one of train; take more steps"
                )
        return {split: [Examples(some[:, :-1], some[:, -1:], self.order)] for split, some in found.items()}

    def _histories(self, goals: Numbers) -> Ids:
        """A history of each goal by an agent of its own, (n, T), up to the last move."""
        draws = Draws(self.seed, "dark room agents")
        wanted = self._wanted(len(goals), draws)
        width = self.observe(goals).shape[1] + 2
        kept = np.zeros((len(goals), self.episodes, self.steps, width), np.int32)
        for episode, tokens in enumerate(self._learning(goals, draws)):
            agent, place = np.nonzero(wanted == episode)
            kept[agent, place] = tokens[agent]
        return kept.reshape(len(goals), -1)[:, :-1]

    def _wanted(self, agents: int, draws: Draws) -> Numbers:
        """The numbers of the episodes of each history, (agents, episodes)."""
        last = self.learning_episodes - 1
        if self.order == "expert":
            return np.tile(np.arange(last + 1 - self.episodes, last + 1), (agents, 1))
        even = np.linspace(0, last, self.episodes).round().astype(np.int64) if self.episodes > 1 else np.array([last])
        if self.order == "learning":
            return np.tile(even, (agents, 1))
        return even[draws.uniform(agents, self.episodes).argsort(1, kind="stable")]

    def _learning(self, goals: Numbers, draws: Draws) -> Iterable[Numbers]:
        """Every episode of agents that learn, (n, steps, words): cells, moves and rewards."""
        rows, first = np.arange(len(goals)), self.actions[0]
        value = draws.uniform(len(goals), self.size**2, len(MOVES))
        for episode in range(self.learning_episodes):
            share = max(0.0, 1 - episode / (EXPLORING * self.learning_episodes))
            cells, told = self.begin(goals), []
            explores, random = (
                draws.uniform(self.steps, len(goals)) < share,
                draws.below(len(MOVES), self.steps, len(goals)),
            )
            for step in range(self.steps):
                move = np.where(explores[step], random[step], value[rows, cells].argmax(1))
                rewards, then = self.act(goals, cells, first + move)
                target = self.gain(rewards) + DISCOUNT * value[rows, then].max(1)
                value[rows, cells, move] += RATE * (target - value[rows, cells, move])
                told.append(np.column_stack([self.observe(cells), first + move, rewards]))
                cells = then
            yield np.stack(told, 1)
