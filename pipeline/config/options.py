"""Flat keys of this pipeline, beside those of TrainingArguments; and what a recipe says of its paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipeline.config.fields import Parameters, param
from pipeline.config.trainer_policy import GLOBAL_BATCH_SIZE


@dataclass(frozen=True)
class Options(Parameters):
    """Flat keys of this pipeline, beside those of TrainingArguments."""

    global_batch_size: int | None = param(
        None, f"rows per update over all processes, {GLOBAL_BATCH_SIZE}; gradient accumulation follows from it", ge=1
    )
    decay_embeddings: bool = param(True, "weight decay on token and position embeddings (and a head tied to them)")
    decay_norms_and_biases: bool = param(False, "weight decay on biases and norm scales too (Power, Nanda)")
    max_eval_samples: int | None = param(
        None,
        "rows of each split used while training, drawn once and the same in all runs; the last evaluation takes all",
        ge=1,
    )
    loss_tokens: Literal["answer", "all"] = param("answer", "tokens of a row that are trained; all: the prompt too")
    loss: Literal["cross_entropy", "stablemax"] = param(
        "cross_entropy", "of the answer tokens; stablemax keeps a gradient where a softmax in float32 has none left"
    )
    grokfast: Literal["off", "ema", "ma"] = param(
        "off", "add a slow average of the gradients to them: ema, exponential, or ma, of the last grokfast_window"
    )
    grokfast_alpha: float = param(0.98, "how slow the ema is: the share of it that stays at a step", ge=0, lt=1)
    grokfast_lamb: float = param(2.0, "how often the average is added", gt=0)
    grokfast_window: int = param(100, "gradients that ma averages; all are kept in memory", ge=1)
    orthogonal_gradient: bool = param(False, "take from each weight's gradient what only scales the weight")
    fast: bool = param(True, "the training step of this pipeline; false: transformers' own, to compare with")
    track_steps: bool = param(False, "send every kept step to wandb, as an artifact")
    stop_when: Literal["never", "grokked"] = param(
        "never", "stop early once exact match on `id`, or else the first held-out split, stays >= 0.99"
    )
    stop_patience: int = param(3, "evaluations in a row that must be >= 0.99 before stopping", ge=1)


@dataclass(frozen=True)
class Paper(Parameters):
    """Where a recipe comes from and the numbers to expect; printed beside the measured ones in the report."""

    title: str = param("", "authors, year, title, arXiv number")
    numbers: dict[str, str] = field(
        default_factory=dict, metadata={"help": "metric of this run -> what the paper reports, as text"}
    )
