"""The next token, as language models are trained: of the answers, or of whole rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.config.fields import param
from pipeline.data.labels import IGNORED
from pipeline.objectives.base import Objective
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.corpora.store import StoredCorpus
    from pipeline.data.rows import Rows


@dataclass(frozen=True)
class NextToken(Objective):
    """The negative log likelihood of each token, given those before it.

    StableMax is -log(s(x_y) / sum s(x)) with s(x) = x + 1 for x >= 0 and 1 / (1 - x) below, which grows too slowly to
    leave a prediction without a gradient (Prieto et al. 2025, arXiv 2501.04697); in float64, where the device has it.
    Smoothing trains towards the label with 1 - a + a / V, and towards every other of the V words with a / V.
    """

    loss: Literal["cross_entropy", "stablemax"] = param(
        "cross_entropy", "stablemax keeps a gradient where a softmax in float32 has none left"
    )
    tokens: Literal["answer", "all"] = param("answer", "of a row that are trained; all: the prompt too")
    label_smoothing: float = param(0.0, "share of every target that goes to all words alike", ge=0, lt=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_smoothing and self.loss != "cross_entropy":
            raise ParameterError("label_smoothing", f"is for loss: cross_entropy, not {self.loss}")

    def rows(self, rows: Rows, stored: StoredCorpus, ids: Sequence[int] | None) -> Rows:
        return rows.whole() if self.tokens == "all" else rows

    def token_losses(self, logits_BAV: Tensor, labels_BA: Tensor) -> Tensor:
        import torch
        from torch.nn import functional as F

        from pipeline.kernels.devices import widest

        if self.loss == "cross_entropy":
            flat = logits_BAV.float().flatten(0, -2)
            losses = F.cross_entropy(
                flat,
                labels_BA.flatten(),
                ignore_index=IGNORED,
                reduction="none",
                label_smoothing=self.label_smoothing,
            )
            return losses.view_as(labels_BA)
        x = logits_BAV.to(widest(logits_BAV.device))
        log_s = torch.where(x >= 0, x.clamp(min=0).log1p(), -(-x.clamp(max=0)).log1p())
        chosen = log_s.gather(-1, labels_BA.clamp(min=0)[..., None])[..., 0]
        return (log_s.exp().sum(-1).log() - chosen).masked_fill(labels_BA == IGNORED, 0.0)
