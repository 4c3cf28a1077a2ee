"""Which runs can be trained as one step, see `stack.py`; what cannot is said in a line before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.data.rows import Rows
from pipeline.kernels.forward import SHORT, Guarded
from pipeline.training.trainer import GrokTrainer
from pipeline.utils.errors import ParameterError


def check_stack(trainers: Sequence[GrokTrainer]) -> None:
    """Check whether runs that have been prepared are of one model, which the stack computes.

    Raises:
        ParameterError: that names the key to change.
    """
    first = trainers[0]
    for trainer in trainers:
        if reason := _why_not(trainer):
            raise reason
        if trainer.model.config.to_dict() != first.model.config.to_dict():
            sizes = ", ".join(sorted({f"{each.model.config.vocab_size:,}" for each in trainers}))
            raise ParameterError(
                "--stack", f"the models of the runs differ in shape; their vocabularies have {sizes} words"
            )


def _why_not(trainer: GrokTrainer) -> ParameterError | None:
    """Return what of a run cannot be part of a stack."""
    model, loop, rows = trainer.model, trainer.loop, trainer.train_rows
    if not (loop.is_own and isinstance(loop.logits, Guarded)):
        reason = next(iter(loop.notes), "its loop is not this pipeline's")
        return ParameterError("--stack", f"needs the fast step and the short forward: {reason}")
    if type(rows) is not Rows:
        return ParameterError("--stack", "the training rows change while training goes on")
    if not all(weight.requires_grad and weight.dtype == torch.float32 for weight in model.parameters()):
        return ParameterError("--stack", "every weight has to be trained, in float32")
    config = model.config
    drops = getattr(config, "attn_pdrop", 0.0) or getattr(config, "attention_dropout", 0.0)
    if drops and rows.shape.width - 1 > SHORT:
        length = rows.shape.width - 1
        return ParameterError(
            "model.dropout", f"{drops}: stacked, attention over {length} tokens has none, only up to {SHORT}; write 0"
        )
    return None
