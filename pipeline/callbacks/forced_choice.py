"""A choice between the words of the prompt, where the whole vocabulary is too hard or too easy a question.

As Anand et al. 2024 (arXiv 2406.00053) ask whether words that were never trained are told apart by their context.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.callbacks.base import Callback, Trainer
from pipeline.config.fields import param

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.data.rows import Rows


@dataclass
class ForcedChoice(Callback):
    """Logs `forced_choice_<split>` at every evaluation: how often the right token is above the others of the prompt.

    Others are those that do not stand in every prompt of the split. Tokens that no training row shows have fresh rows
    in the embedding for as long as that is measured, as their own only drift. It needs whole weights:
    one process, or several under DDP, ZeRO-1 or 2.
    """

    place: int = param(2, "which token of the answer is asked for, from 1", ge=1)
    most: int = param(500, "rows of a split", ge=1)

    def attach(self, trainer: Trainer) -> None:
        from pipeline.callbacks._sharded import check_whole

        check_whole(trainer, "forced_choice")
        super().attach(trainer)

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        import torch

        model = self.trainer.accelerator.unwrap_model(model)
        was_training = model.training
        model.eval()
        logs = {}
        with torch.no_grad(), self._untrained_drawn(model, args.seed, state.global_step):
            for split, rows in self.trainer.splits.items():
                right = self._right(model, rows.sample(self.most, split))
                if len(right):
                    logs[f"forced_choice_{split}"] = float(right.cpu().double().mean())
        model.train(was_training)
        self.trainer.log(logs)

    def _right(self, model: Any, rows: Rows) -> Tensor:
        """For each row that has such a place, and whose right token stands in its prompt: whether it is chosen."""
        import torch

        from pipeline.kernels.forward import stock_logits

        chosen = rows.answer_N >= self.place
        tokens_NT, prompt_N = rows.tokens_NT[chosen], rows.prompt_N[chosen]
        if not len(tokens_NT):
            return chosen[:0]
        at_N1 = (prompt_N + self.place - 1)[:, None]
        label_N = tokens_NT.gather(1, at_N1)[:, 0]
        logits_NV = stock_logits(model, {"input_ids": tokens_NT[:, :-1], "positions": at_N1 - 1})[:, 0].float()
        is_prompt_NT = torch.arange(tokens_NT.shape[1], device=tokens_NT.device) < prompt_N[:, None]
        asked_NV = torch.zeros_like(logits_NV, dtype=torch.bool)
        row_N1 = torch.arange(len(tokens_NT), device=tokens_NT.device)[:, None].expand_as(tokens_NT)
        asked_NV[row_N1[is_prompt_NT], tokens_NT[is_prompt_NT]] = True
        asked_NV &= ~asked_NV.all(0)
        is_asked_N = asked_NV.gather(1, label_N[:, None])[:, 0]
        best_N = logits_NV.masked_fill(~asked_NV, -torch.inf).argmax(1)
        return (best_N == label_N)[is_asked_N]

    @contextmanager
    def _untrained_drawn(self, model: Any, seed: int, step: int) -> Iterator[None]:
        """Within the block tokens that no training row shows have new rows."""
        import torch

        from pipeline.callbacks._fresh_rows import fresh

        weight = model.get_input_embeddings().weight
        untrained_V = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
        untrained_V[self.trainer.train_rows.tokens_NT.unique().to(weight.device)] = False
        own = weight.detach().clone()
        new = fresh(weight.shape, float(model.config.initializer_range), seed, step).to(weight)
        weight.data.copy_(torch.where(untrained_V[:, None], new, weight))
        try:
            yield
        finally:
            weight.data.copy_(own)
