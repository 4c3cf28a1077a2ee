"""Histories of an agent: rows of which the actions are trained, and episodes in which a model acts.

Tensor names carry their shape: N rows, B rows of a batch, A answer tokens, K actions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.corpora._playable import Playable
from pipeline.data.buckets import Shape
from pipeline.data.labels import IGNORED
from pipeline.data.rows import Batch, Rows
from pipeline.utils.draws import Numbers


@dataclass(frozen=True)
class Histories(Rows):
    """Rows of which the actions alone are trained; `ids` is the token in the rows of each word of the corpus."""

    corpus: Any = None
    ids: Sequence[int] = ()

    def to(self, device: torch.device) -> Histories:
        moved = super().to(device)
        return Histories(moved.tokens_NT, moved.prompt_N, moved.answer_N, self.corpus, self.ids)

    @cached_property
    def actions(self) -> torch.Tensor:
        """The tokens that are actions."""
        return torch.tensor([self.ids[word] for word in self.corpus.actions], device=self.tokens_NT.device)

    @cached_property
    def shape(self) -> Shape:
        """That of whole rows, where targets have to be counted."""
        return dataclasses.replace(Shape.of(self.prompt_N, self.answer_N), is_even=False)

    def _batch(self, index_B: torch.Tensor, shape: Shape) -> Batch:
        found = super()._batch(index_B, shape)
        is_action_BA = torch.isin(found["labels"], self.actions)
        return {**found, "labels": found["labels"].masked_fill(~is_action_BA, IGNORED)}


def returns(corpus: Playable, goals: Numbers, choose: Callable[[Numbers], Numbers]) -> npt.NDArray[np.float64]:
    """Let a policy act for as many episodes as a history has, all of which it remembers.

    Args:
        corpus: The environment.
        goals: One for each of n agents.
        choose: The action of each agent, given its history so far in the words of the corpus, (n, T) -> (n,).

    Returns:
        What each agent gained in each episode, as a share of the most that it could, (n, episodes).
    """
    history = np.empty((len(goals), 0), np.int64)
    gained = np.zeros((len(goals), corpus.episodes))
    for episode in range(corpus.episodes):
        states = corpus.begin(goals)
        for _ in range(corpus.steps):
            history = np.column_stack([history, corpus.observe(states)])
            actions = choose(history)
            rewards, states = corpus.act(goals, states, actions)
            history = np.column_stack([history, actions, rewards])
            gained[:, episode] += corpus.gain(rewards)
    return gained / np.maximum(corpus.best(goals), 1)[:, None]
