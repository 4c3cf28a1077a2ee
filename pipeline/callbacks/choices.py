"""Single words of rows that are chosen among few, as Murty et al. 2023 (arXiv 2305.18741) measure generalization."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.callbacks.base import Callback, Trainer
from pipeline.config.fields import param
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor


CHUNK = 256  # rows at once


@dataclass
class Choices(Callback):
    """Logs `choice_<what>_<split>` at every evaluation: how often the right word of a row has the highest logit.

    What is asked for, and among which words, the corpus says: the first auxiliary of a question among the four of
    question_formation, the main verb of tense_reinflection among all in the present, closing brackets of dyck, and
    those that are ten tokens away. What stands before is given. It needs whole weights; nothing is logged of a corpus
    that asks for none.
    """

    most: int = param(1000, "rows of a split", ge=1)
    _asked: dict[str, dict[str, Any]] | None = field(init=False, default=None, repr=False)

    def attach(self, trainer: Trainer) -> None:
        from pipeline.callbacks._sharded import check_whole

        check_whole(trainer, "choices")
        if trainer.recipe.model.rewords:
            raise ParameterError("callbacks.choices", "needs each word of the corpus as one token")
        super().attach(trainer)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        import torch

        from pipeline.callbacks._probe import evaluated
        from pipeline.data.asked import choices_of

        if self._asked is None:
            recipe, device = self.trainer.recipe, args.device
            self._asked = {split: choices_of(recipe, split, self.most, device) for split in self.trainer.splits}
        logs = {}
        with evaluated(self.trainer) as model, torch.no_grad():
            for split, asked in self._asked.items():
                for name, (tokens_NT, place_NT, among_K) in asked.items():
                    right = [
                        chosen(model, tokens, place, among_K)
                        for tokens, place in zip(tokens_NT.split(CHUNK), place_NT.split(CHUNK))
                    ]
                    logs[f"choice_{name}_{split}"] = float(torch.cat(right).cpu().double().mean())
        if logs:
            self.trainer.log(logs)


def chosen(model: Any, tokens_NT: Tensor, place_NT: Tensor, among_K: Tensor) -> Tensor:
    """Whether each token at a place has the highest logit of those among which it is, in the order of the places."""
    logits_NTV = model(input_ids=tokens_NT[:, :-1], use_cache=False).logits
    best = among_K[logits_NTV[place_NT[:, 1:]][:, among_K].argmax(-1)]
    right: Tensor = best == tokens_NT[place_NT]
    return right
