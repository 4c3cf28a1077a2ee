"""What may stand in a recipe's `collator:` block: changes of the prompts that are trained, anew in every update.

All are given the prompts of a whole update, of all processes, and a stream of random numbers that follows from the seed
and the update. So neither the number of processes, nor micro-batches, nor where a run was resumed change what is drawn.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.config.fields import Parameters
from pipeline.utils.draws import Draws

if TYPE_CHECKING:
    from pipeline.corpora.base import Corpus
    from pipeline.data.augmented import Prompts


@dataclass(frozen=True)
class Collator(Parameters, abc.ABC):
    """Changes the prompts of an update; answers stay. `priority`: those with lower numbers come first."""

    priority: ClassVar[int] = 50

    def check(self, corpus: Corpus) -> None:
        """Refuses a corpus whose prompts it cannot change; this one takes all.

        Raises:
            ParameterError: that says what the corpus lacks.
        """

    @abc.abstractmethod
    def __call__(self, prompts: Prompts, corpus: Corpus, draws: Draws) -> Prompts:
        """The prompts that are trained in place of these, in the words of the corpus: as long or shorter, none empty.

        A prompt that became one of a held-out split is trained as it was.
        """


def chained(chosen: Mapping[str, Any], corpus: Corpus, seed: int) -> Callable[[Prompts, int], Prompts]:
    """The changes of a recipe one after the other, for the prompts of an update and its number."""
    parts = sorted(chosen.items(), key=lambda part: (part[1].priority, part[0]))

    def change(prompts: Prompts, update: int) -> Prompts:
        for name, part in parts:
            changed = part(prompts, corpus, Draws(seed, f"collator {name}", update))
            if np.any(changed.length < 1) or np.any(changed.length > prompts.length):
                raise ValueError(f"collator {name}: made a prompt empty or longer")
            prompts = prompts._replace(tokens=changed.tokens, length=changed.length)
        return prompts

    return change
