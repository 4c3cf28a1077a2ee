"""Several tokens from each state: future token prediction (Walker 2024, arXiv 2410.18160)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.config.fields import param
from pipeline.data.labels import IGNORED
from pipeline.objectives.next_token import NextToken
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from pipeline.data.rows import Batch, Rows


@dataclass(frozen=True)
class FutureTokens(NextToken):
    """next_token, and `decay`^(n - 1) x the loss of the n-th token from each place, for all that its model predicts.

    Tokens that are not trained, as those of a prompt, have no loss here either. Splits are measured by next_token.
    """

    decay: float = param(0.8, "of the weight of a token, by each token that it is further ahead", gt=0, le=1)

    asks: ClassVar[Mapping[str, Any] | None] = {"future": True}

    def begin(self, model: PreTrainedModel, rows: Rows) -> Rows:
        if not hasattr(model.config, "n_future"):
            raise ParameterError(
                "objective.name",
                "future_tokens needs a model that predicts several tokens; write model.name: gpt2_future_tokens",
            )  # fmt: skip
        return rows

    def losses(self, logits_BAV: Tensor, batch: Batch, outputs: Any) -> Tensor:
        from torch.nn import functional as F

        from pipeline.kernels.forward import take

        labels_BA = batch["labels"]
        losses_BA = self.token_losses(logits_BAV, labels_BA)
        future_BAMV = take(outputs.future_logits.flatten(2), batch["positions"]).unflatten(2, (-1, logits_BAV.shape[2]))
        for ahead, logits in enumerate(future_BAMV.unbind(2), 1):
            # Answers are tokens in a row: the label of the n-th token ahead is the next one's, n - 1 places later.
            later_BA = F.pad(labels_BA, (0, ahead), value=IGNORED)[:, ahead:]
            losses_BA = losses_BA + self.decay**ahead * self.token_losses(logits, later_BA)
        return losses_BA
