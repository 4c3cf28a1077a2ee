"""What an objective is: which tokens are trained, and the loss of each."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.config.fields import Parameters

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.data.rows import Rows


@dataclass(frozen=True)
class Objective(Parameters, abc.ABC):
    """What training minimizes: the mean of `token_losses` over all targets of an update.

    The sum over the targets is divided by their number in the whole update, so that neither gradient accumulation nor
    the number of processes changes it. Tensor names carry their shape: B rows, A places of answers, V words.
    """

    def rows(self, rows: Rows) -> Rows:
        """The training rows with what is to be trained of each as its answer; `rows.whole()` is all tokens."""
        return rows

    @abc.abstractmethod
    def token_losses(self, logits_BAV: Tensor, labels_BA: Tensor) -> Tensor:
        """The loss of every token, (B, A), 0 where the label is IGNORED; the splits are measured by it too."""
