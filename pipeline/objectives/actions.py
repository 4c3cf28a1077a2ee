"""What an agent does next, given its history: algorithm distillation (Laskin et al. 2022, arXiv 2210.14215)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.objectives.base import Objective
from pipeline.objectives.next_token import NextToken
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.corpora.store import StoredCorpus
    from pipeline.data.rows import Rows


@dataclass(frozen=True)
class Actions(Objective):
    """The negative log likelihood of every action of a history; what is observed and gained is only read."""

    def rows(self, rows: Rows, stored: StoredCorpus, ids: Sequence[int] | None) -> Rows:
        from pipeline.config.registry import room_name
        from pipeline.corpora._playable import Playable
        from pipeline.data.histories import Histories

        corpus = stored.corpus
        if not isinstance(corpus, Playable):
            raise ParameterError(
                "objective", f"actions needs histories of an agent, such as dark_room; {room_name(corpus)} has none"
            )
        if ids is None:
            raise ParameterError(
                "objective", "actions needs words, and the model has texts; write model.vocabulary: tokens"
            )
        whole = rows.whole()
        return Histories(whole.tokens_NT, whole.prompt_N, whole.answer_N, corpus, ids)

    def token_losses(self, logits_BAV: Tensor, labels_BA: Tensor) -> Tensor:
        return NextToken().token_losses(logits_BAV, labels_BA)
