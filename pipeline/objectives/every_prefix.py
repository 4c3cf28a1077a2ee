"""The answer from every part of a chain of steps: the supervisor of Ton et al. 2024 (arXiv 2411.11984, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.config.fields import param
from pipeline.objectives.base import Objective
from pipeline.objectives.next_token import NextToken
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.corpora.store import StoredCorpus
    from pipeline.data.rows import Rows


@dataclass(frozen=True)
class EveryPrefix(Objective):
    """The negative log likelihood of the right answer, given a question and none, some or all steps of its chain.

    Each chain is a row before its first step and after every one; so is, for a share of the chains, whether they will
    end right, which is what an outcome reward model learns. The analysis `information_gain` reads what was learned.
    Splits are measured from whole chains.
    """

    outcomes: float = param(0.25, "share of the chains of which it is trained, too, whether they end right", ge=0, le=1)

    def rows(self, rows: Rows, stored: StoredCorpus, ids: Sequence[int] | None) -> Rows:
        from pipeline.config.registry import room_name
        from pipeline.corpora.base import Stepwise
        from pipeline.data.prefixes import prefixes

        corpus = stored.corpus
        if not isinstance(corpus, Stepwise):
            raise ParameterError("objective", f"every_prefix needs chains of steps, and {room_name(corpus)} has none")
        if ids is None:
            raise ParameterError("objective", "every_prefix needs words, and the model has texts; write "
                                 "model.vocabulary: tokens")  # fmt: skip
        return prefixes(corpus, stored, self.outcomes, ids)

    def token_losses(self, logits_BAV: Tensor, labels_BA: Tensor) -> Tensor:
        return NextToken().token_losses(logits_BAV, labels_BA)
