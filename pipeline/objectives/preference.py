"""Answers that are preferred to others: DPO (Rafailov et al. 2023, arXiv 2305.18290), and two ways to tame it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pipeline.config.fields import param
from pipeline.objectives.base import Objective
from pipeline.objectives.next_token import NextToken
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from pipeline.corpora.store import StoredCorpus
    from pipeline.data.rows import Batch, Rows


@dataclass(frozen=True)
class Preference(Objective):
    """-log sigmoid(beta log(p / p_start) of the right answer - beta_rejected log(p / p_start) of a wrong one), by pair.

    p_start is the model that training starts from. A smaller beta_rejected is Flex-DPO, and `sft` times the negative
    log likelihood of the right answer is the regularized loss of Yan et al. 2024 (arXiv 2406.07327, section 4). Wrong
    answers are drawn once, in three ways: those of other rows of the same length, the right one with one token changed
    to another that stands there in some row, or those that the corpus says. Splits are measured by next_token.
    """

    beta: float = param(0.1, "how far the right answer may move from where training starts", gt=0)
    beta_rejected: float | None = param(None, "the same for the wrong answer; null: beta", ge=0)
    sft: float = param(0.0, "weight of the negative log likelihood of the right answer", ge=0)
    rejected: Literal["other", "changed", "corpus"] = param("other", "where wrong answers come from")
    reference: Literal["computed", "kept"] = param(
        "computed", "log(p_start) of all pairs before the first step, or of each batch by a copy of the model"
    )
    seed: int = param(0, "of the wrong answers", ge=0)

    per: ClassVar[Literal["target", "row"]] = "row"
    from_start: ClassVar[bool] = True

    def rows(self, rows: Rows, stored: StoredCorpus, ids: Sequence[int] | None) -> Rows:
        from pipeline.data import preferences

        try:
            if self.rejected == "corpus":
                return preferences.paired(rows, self._of_corpus(rows, stored, ids))
            change = preferences.other_answers if self.rejected == "other" else preferences.changed_answers
            return preferences.paired(rows, change(rows, Draws(self.seed, "rejected answers")))
        except ParameterError as error:
            raise error.inside("objective") from None

    def _of_corpus(self, rows: Rows, stored: StoredCorpus, ids: Sequence[int] | None) -> Rows:
        """The rows with the answers that their corpus says are wrong."""
        import numpy as np

        from pipeline.config.registry import room_name
        from pipeline.corpora.base import Preferring
        from pipeline.data.preferences import with_answers

        if not isinstance(stored.corpus, Preferring):
            raise ParameterError(
                "rejected", f"{room_name(stored.corpus)} says no wrong answers; write other or changed"
            )
        if ids is None:
            raise ParameterError(
                "rejected", "the corpus has words, and the model texts; write model.vocabulary: tokens"
            )
        blocks = [stored.corpus.rejected(block) for block in stored.blocks("train")]
        return with_answers(rows, [np.asarray(ids)[answer] for block in blocks for answer in block])

    def begin(self, model: PreTrainedModel, rows: Rows) -> Rows:
        import torch

        from pipeline.data.preferences import Preferences
        from pipeline.kernels.forward import stock_logits

        assert isinstance(rows, Preferences)
        start = copy.deepcopy(model).eval().requires_grad_(False) if self.reference == "kept" else model
        device = rows.tokens_NT.device

        @torch.no_grad()
        def score(batch: Batch) -> Tensor:
            # Under DeepSpeed the model has not come to the device of the rows yet.
            there = {key: batch[key].to(start.device) for key in ("input_ids", "positions", "labels")}
            return -self.token_losses(stock_logits(start, there), there["labels"]).sum(1).to(device)

        if self.reference == "kept":
            return dataclasses.replace(rows, kept=score)
        was_training = model.training
        model.eval()
        scored = rows.scored(score)
        model.train(was_training)
        return scored

    def token_losses(self, logits_BAV: Tensor, labels_BA: Tensor) -> Tensor:
        return NextToken().token_losses(logits_BAV, labels_BA)

    def losses(self, logits_BAV: Tensor, batch: Batch, outputs: Any) -> Tensor:
        from torch.nn import functional as F

        log_p_2B = -self.token_losses(logits_BAV, batch["labels"]).sum(1)
        chosen_B, _ = log_p_2B.chunk(2)
        return -F.logsigmoid(self.margins(log_p_2B, batch["reference"])) - self.sft * chosen_B

    def margins(self, log_p_2B: Tensor, reference_2B: Tensor) -> Tensor:
        """What the sigmoid is taken of, (B,)."""
        chosen_B, rejected_B = (log_p_2B - reference_2B).chunk(2)
        return self.beta * chosen_B - self.rate_rejected * rejected_B

    @property
    def rate_rejected(self) -> float:
        return self.beta if self.beta_rejected is None else self.beta_rejected
