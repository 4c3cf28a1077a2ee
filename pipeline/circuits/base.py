"""What an analysis is: parameters, and a table of rows computed from a model and pairs of prompts.

One file per analysis. It knows nothing of run folders, steps or the Hub: `pipeline.explain` walks the kept steps of a
run with one model instance and adds the step to each row.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.corpora.base import Ids
from pipeline.parameters import ParameterError, Parameters, param

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Row = dict[str, Any]


@dataclass(frozen=True)
class Pairs:
    """n clean prompts beside corrupted ones, which differ in one token and have another answer; all as token ids.

    clean and corrupted are (n, P), answers and corrupted_answers (n, A). `notes` name further tokens to look for, (n,)
    each, such as the bridge entity of a two-hop fact.
    """

    clean: Ids
    corrupted: Ids
    answers: Ids
    corrupted_answers: Ids
    notes: Mapping[str, Ids]

    def __len__(self) -> int:
        return len(self.clean)

    def renamed(self, ids: Sequence[int]) -> Pairs:
        """The same pairs where token i is called ids[i]."""
        new = np.asarray(ids, dtype=np.int32)
        notes = {name: new[note] for name, note in self.notes.items()}
        return Pairs(new[self.clean], new[self.corrupted], new[self.answers], new[self.corrupted_answers], notes)


@dataclass(frozen=True)
class Analysis(Parameters, abc.ABC):
    """An analysis of a language model on pairs of prompts.

    A report draws the column `drawn`, in [0, 1], by `layer`, `position` and `target`, which are then columns too.
    """

    drawn: ClassVar[str]
    drawn_as: ClassVar[str]  # what it is, in words

    split: str = param("id", "split that the prompts are taken from")
    pairs: int = param(300, "most prompts", ge=1)
    steps: str = param("all", "kept steps to look at: all, last, log, or numbers such as 0,1000,2000")
    seed: int = param(0, "of the choice of prompts and of their corruption", ge=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps not in ("all", "last", "log") and not re.fullmatch(r"\d+(,\d+)*", self.steps):
            raise ParameterError("steps", f"{self.steps!r} is not all, last, log, or numbers such as 0,1000,2000")

    @abc.abstractmethod
    def run(self, model: PreTrainedModel, pairs: Pairs) -> list[Row]:
        """Rows of plain values, the same columns in each; the model is in eval mode and stays as it is."""
