"""What a corpus is in which a model can act."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from pipeline.utils.draws import Numbers


@runtime_checkable
class Playable(Protocol):
    """A corpus of histories of an agent in an environment: observation, action and reward, again and again.

    A model acts in it for as many `episodes`, of so many `steps`, as a history has. `actions`: the words that are such.
    """

    episodes: int
    steps: int

    @property
    def actions(self) -> Sequence[int]: ...

    def goals(self, split: str) -> Numbers:
        """What the histories of `train`, or of `unseen`, are after; (n,)."""

    def begin(self, goals: Numbers) -> Numbers:
        """The states in which episodes begin, (n,)."""

    def observe(self, states: Numbers) -> Numbers:
        """The words by which states are told, (n, K)."""

    def act(self, goals: Numbers, states: Numbers, actions: Numbers) -> tuple[Numbers, Numbers]:
        """The word of the reward for an action in a state, and the next state; (n,) each."""

    def gain(self, rewards: Numbers) -> Numbers:
        """How much a reward is, (n,)."""

    def best(self, goals: Numbers) -> Numbers:
        """The most that an episode can gain, (n,)."""
