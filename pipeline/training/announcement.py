"""What the main job says of a run before its first step, and where training ends early."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.config.registry import room_name
from pipeline.runs.manifest import Manifest

if TYPE_CHECKING:
    from pipeline.training.trainer import GrokTrainer


def announcement(trainer: GrokTrainer, checkpoint: str | None) -> str:
    """Return what is about to be trained, in three lines before the first step, and what keeps it from being fast."""
    recipe, args = trainer.recipe, trainer.args
    sizes = ", ".join(f"{split} {len(rows):,}" for split, rows in trainer.splits.items() if split != "train")
    weights = sum(weight.numel() for weight in trainer.model.parameters())
    batch = f"{recipe.options.global_batch_size} rows"
    if args.world_size * args.gradient_accumulation_steps > 1:
        batch += f" = {args.world_size} x {args.gradient_accumulation_steps} x {args.train_batch_size}"
    begin = f"resumes after step {checkpoint.rpartition('-')[2]}" if checkpoint else "starts"
    return "\n".join(
        (
            f"{recipe.name}: {begin} in {recipe.output_dir}, {trainer.total_steps:,} steps of {batch} on {args.device}",
            f"corpus {room_name(recipe.corpus)}: train {len(trainer.train_rows):,} rows; {sizes}",
            f"model {room_name(recipe.model)}: {weights:,} parameters, {trainer.model.config.vocab_size:,} tokens",
            *trainer.notes,
        )
    )


def ending(trainer: GrokTrainer) -> str:
    """Return why training ended early, and what the same command would do."""
    path, step = trainer.recipe.output_dir, trainer.state.global_step
    if trainer.stopped_by:
        return f"stopped by {trainer.stopped_by} after step {step}, saved in {path}; the same command goes on"
    last = max(Manifest.load(path).resumable, default=None)
    good = f"checkpoint-{last} in {path}" if last is not None else "none"
    advice = "A lower learning_rate or max_grad_norm, or bf16: false"
    return f"{trainer.saving.failure}; the last good checkpoint: {good}. {advice}"
