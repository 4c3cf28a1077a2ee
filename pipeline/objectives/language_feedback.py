"""Imitation of refinements: learning from language feedback (Scheurer et al. 2023, arXiv 2303.16755, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.config.fields import param
from pipeline.objectives.base import Objective
from pipeline.objectives.next_token import NextToken
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from pipeline.corpora.store import StoredCorpus
    from pipeline.data.rows import Rows


@dataclass(frozen=True)
class LanguageFeedback(Objective):
    """The negative log likelihood of refinements, which the model that training starts from has written itself.

    It answers each trained prompt, the corpus says in words what is wrong with the draft, and the same model writes it
    anew; the answers of the corpus are not trained. Of several refinements the best is taken, as the corpus judges.
    """

    prompts: int = param(4000, "most that are answered, of those of train", ge=1)
    refinements: int = param(1, "that are drawn of each draft; 1: the likeliest words", ge=1)
    temperature: float = param(1.0, "of several", gt=0)
    keep: Literal["right", "all"] = param("right", "refinements that are imitated")
    seed: int = param(0, "of the draws", ge=0)

    from_start: ClassVar[bool] = True

    def rows(self, rows: Rows, stored: StoredCorpus, ids: Sequence[int] | None) -> Rows:
        from pipeline.config.registry import room_name
        from pipeline.corpora.base import Criticizing
        from pipeline.data.refinements import Drafted

        if not isinstance(stored.corpus, Criticizing):
            raise ParameterError(
                "objective",
                f"language_feedback needs a corpus that criticizes answers, as {room_name(stored.corpus)} does not",
            )
        if ids is None:
            raise ParameterError(
                "objective", "language_feedback needs words, and the model has texts; write model.vocabulary: tokens"
            )
        rows = rows.sample(self.prompts, "train", "drafts")
        ends = rows.tokens_NT.gather(1, (rows.prompt_N + rows.answer_N - 1)[:, None])
        return Drafted(rows.tokens_NT, rows.prompt_N, rows.answer_N, stored.corpus, ids, frozenset(ends[:, 0].tolist()))

    def begin(self, model: PreTrainedModel, rows: Rows) -> Rows:
        import torch

        from pipeline.data.refinements import Drafted, refined

        assert isinstance(rows, Drafted)
        was_training = model.training
        model.eval()
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            found = refined(model, rows, self.refinements, self.temperature, self.keep == "right")
        model.train(was_training)
        if not len(found):
            raise ParameterError(
                "objective.keep", "right: the model that training starts from has written nothing that is right"
            )
        return found

    def token_losses(self, logits_BAV: Tensor, labels_BA: Tensor) -> Tensor:
        return NextToken().token_losses(logits_BAV, labels_BA)
