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
    fork: str | None = param(
        None, "RUN@STEP: go on from that step of another run under these keys; STEP is a number, grok, fit or last"
    )
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
