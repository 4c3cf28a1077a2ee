"""What an objective is: which tokens are trained, and the loss of each."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline.config.fields import Parameters

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from pipeline.corpora.store import StoredCorpus
    from pipeline.data.rows import Batch, Rows


@dataclass(frozen=True)
class Objective(Parameters, abc.ABC):
    """What training minimizes: the mean of `losses` over all targets of an update, or over its rows.

    Their sum is divided by the number of targets (`per`: of rows) in the whole update, so that neither gradient
    accumulation nor the number of processes changes it. Tensor names carry their shape: B rows, A places of answers,
    V words.

    `asks`: arguments with which the model's own forward is called for its whole outputs, such as
    {"output_hidden_states": True}, or {} for a model that returns more than logits; None: the logits at the answers are
    enough, and are computed by the shortest way. `from_start`: it compares with the model that training starts from, so
    that a run with it is no fork; it is given that model by `begin`.
    """

    per: ClassVar[Literal["target", "row"]] = "target"
    asks: ClassVar[Mapping[str, Any] | None] = None
    from_start: ClassVar[bool] = False

    def rows(self, rows: Rows, stored: StoredCorpus, ids: Sequence[int] | None) -> Rows:
        """The training rows with what is to be trained of each as its answer; `rows.whole()` is all tokens.

        Args:
            rows: Of `train`, in the order of the corpus.
            stored: The corpus.
            ids: The token in the rows of each word of the corpus; None where the rows are its texts.

        Returns:
            The rows, or a subclass of Rows, whose batches may have further entries for `losses`.
        """
        return rows

    def begin(self, model: PreTrainedModel, rows: Rows) -> Rows:
        """The rows with what is computed of them by the model that training starts from, also where a run goes on.

        Raises:
            ParameterError: when the model lacks what `losses` needs of it.
        """
        return rows

    @abc.abstractmethod
    def token_losses(self, logits_BAV: Tensor, labels_BA: Tensor) -> Tensor:
        """The loss of every token, (B, A), 0 where the label is IGNORED; the splits are measured by it too."""

    def losses(self, logits_BAV: Tensor, batch: Batch, outputs: Any) -> Tensor:
        """The losses that are trained: of every token, (B, A), or where they are per row, of every row, (B,).

        Args:
            logits_BAV: At the answers.
            batch: With input_ids, and positions and labels of the answers.
            outputs: What the model returned, where the objective `asks` for it; else None.
        """
        return self.token_losses(logits_BAV, batch["labels"])
