"""A run's training, from a recipe to the model after its last step."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from pipeline.callbacks.base import with_defaults
from pipeline.config.outside import check_outside
from pipeline.config.recipe import Recipe
from pipeline.config.registry import room_name
from pipeline.kernels.host import wait_briefly
from pipeline.runs import forks, opening
from pipeline.runs.checkpoints import UNIVERSAL, step_of
from pipeline.runs.folder import RunFolder, check_corpus
from pipeline.runs.grokking import PROBE, judged_split
from pipeline.runs.manifest import Manifest
from pipeline.runs.metrics import read_lines
from pipeline.training.announcement import announcement
from pipeline.training.arguments import training_arguments
from pipeline.training.forking import check_fork, fork_line, has_checkpoint
from pipeline.training.sharding import in_force, prepare_engine, regrouped, undivided
from pipeline.utils import launcher
from pipeline.utils.doing import doing
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.inside import opened, remove_tree
from pipeline.utils.log import log
from pipeline.utils.signals import REQUEST

if TYPE_CHECKING:
    from pipeline.corpora.store import StoredCorpus
    from pipeline.data.rows import Rows
    from pipeline.training.trainer import GrokTrainer


def prepare(recipe: Recipe, is_stacked: bool = False) -> GrokTrainer:
    """Corpus, model and trainer of a recipe, and the description of the run in its opening.

    Args:
        recipe: Of the run.
        is_stacked: Whether its updates are made together with those of other runs, see `stack.py`.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    wait_briefly()
    from transformers.utils import logging

    from pipeline.circuits.runner import check_analyses, check_model
    from pipeline.corpora.store import build
    from pipeline.data.rows import check_held_out, check_rows
    from pipeline.data.words import check_text
    from pipeline.models.readers import for_readers
    from pipeline.training.trackers import prepare_trackers, tracked_name
    from pipeline.training.trainer import GrokTrainer
    from pipeline.utils.seeds import seed_weights

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    prepare_engine(recipe.training)
    world = launcher.processes().world
    args = training_arguments(recipe.training, recipe.batches(world))
    if args.world_size != world:
        raise RecipeError("environment", f"WORLD_SIZE: {world} processes would train each alone, as there is no GPU; "
                          "write --use_cpu true")  # fmt: skip
    check_outside(recipe, bf16=bool(args.bf16))
    args.run_name = tracked_name(recipe)
    if recipe.peft:
        recipe.peft.check_whole(args)
    doing(f"building the corpus {room_name(recipe.corpus)}")
    with args.main_process_first(desc="corpus"):
        try:
            stored = build(recipe.corpus)
        except ParameterError as error:
            raise error.inside("corpus") from None
    check_corpus(recipe.output_dir, stored)
    texts = opening.texts_of(recipe)
    opening.check_texts(recipe.output_dir, texts)
    if recipe.options.stop_when == "grokked" and judged_split(stored.held_out) is None:
        raise ParameterError("stop_when", "the corpus has no held-out split to generalize to; write never")
    train_rows = recipe.model.rows(stored, "train")
    splits = {split: recipe.model.rows(stored, split, PROBE if split == "train" else None) for split in stored.sizes}
    if recipe.model.rewords:
        check_held_out(train_rows, {split: splits[split] for split in stored.held_out})
    tokenizer = recipe.model.tokenizer(stored)
    if not recipe.model.rewords:
        key = "corpus" if recipe.model.own_tokenizer() is None else "model.vocabulary"
        check_text(stored, tokenizer, recipe.model.token_ids(stored), key)
    ids = None if recipe.model.rewords else recipe.model.token_ids(stored)
    train_rows = recipe.objective.rows(train_rows, stored, ids)
    if recipe.collator:
        train_rows = _augmented(recipe, stored, train_rows, ids, args.seed)
    if recipe.replay:
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        train_rows = recipe.replay.mixed_with(train_rows, tokenizer, batch)
    check_rows(recipe, train_rows)
    chosen = check_analyses(recipe, stored)
    seed_weights(args.seed)
    doing(f"building the model {room_name(recipe.model)}")
    with undivided(args):
        model = recipe.model.for_corpus(stored)
    check_model(recipe, model, chosen)
    if recipe.peft:
        recipe.peft.into(model, recipe.model.added(stored), getattr(recipe.model, "revision", None))
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ParameterError("model.freeze", "leaves no weight to train; name fewer")
    fork = forks.beginning(recipe) if recipe.options.fork and not has_checkpoint(recipe) else None
    differing = check_fork(fork, recipe, model, stored) if fork else []
    if args.should_save:
        opening.write_description(recipe, stored)
        prepare_trackers(list(args.report_to or ()), recipe.output_dir, args.project)
        opening.write_tokenizer(recipe.output_dir, for_readers(tokenizer, model.config))
    callbacks = with_defaults(recipe.callbacks)
    trainer = GrokTrainer(model, args, recipe, train_rows, splits, stored.held_out, tokenizer, callbacks, is_stacked)
    found = in_force(trainer)
    if fork:
        trainer.fork, found = fork, {**found, "fork": fork.facts()}
        trainer.notes.append(fork_line(fork, differing))
    if args.should_save:  # others may be here before the first process has written anything
        trainer.folder = RunFolder.of(recipe, stored)
        if changed := opening.record_start(recipe.output_dir, found, texts):
            trainer.notes.append(f"since the last start: {'; '.join(changed)}; bits may differ from there on")
    return trainer


def _augmented(recipe: Recipe, stored: StoredCorpus, rows: Rows, ids: Sequence[int] | None, seed: int) -> Rows:
    """Return the training rows with the changes of the recipe's collators.

    Raises:
        ParameterError: when one of them cannot change this corpus, or the objective needs rows that stay.
    """
    from pipeline.collators.base import chained
    from pipeline.data.augmented import Augmented, PromptSource
    from pipeline.data.rows import Rows

    for name, part in recipe.collator.items():
        if type(rows) is not Rows:
            raise ParameterError(f"collator.{name}", f"objective {room_name(recipe.objective)} needs prompts that stay")
        try:
            part.check(stored.corpus)
        except ParameterError as error:
            raise error.inside(f"collator.{name}") from None
    batch = recipe.options.global_batch_size
    assert batch is not None and ids is not None  # filled in by read_recipe; which refuses collators for texts
    changes = chained(recipe.collator, stored.corpus, seed)
    return Augmented.of(
        PromptSource(stored, ids, changes, lambda rows: recipe.objective.rows(rows, stored, ids)), batch
    )


def train(trainer: GrokTrainer) -> None:
    """Trains from the newest whole checkpoint, or from the start, until the last step is kept."""
    from accelerate.utils import broadcast_object_list

    path, checkpoint = trainer.recipe.output_dir, None
    if trainer.is_world_process_zero():
        checkpoint = opening.go_back(path)
        if trainer.fork and checkpoint is None:
            forks.copy_history(trainer.fork, path)
        for line in read_lines(path, "_exact_match"):
            trainer.grok.update(line["step"], line)
        opening.record_length(path, trainer.total_steps)
        for fact in announcement(trainer, checkpoint).splitlines():
            log.info(fact)
    checkpoint, trainer.grok = broadcast_object_list([checkpoint, trainer.grok])
    if _is_done(trainer, checkpoint):
        trainer.load_weights(checkpoint)
    else:
        trainer.fork = trainer.fork if checkpoint is None else None
        trainer.args.eval_on_start = checkpoint is None and not trainer.fork
        try:
            rows = trainer.args.train_batch_size
            with forks.checkpoint_of(trainer.fork, rows) if trainer.fork else nullcontext(checkpoint) as begin:
                trainer.train(resume_from_checkpoint=begin and regrouped(trainer, begin))
        except pickle.UnpicklingError:
            raise RecipeError(
                "output_dir", f"{checkpoint} holds code in the place of weights, which is not run; delete it to go on"
            ) from None
        if trainer.is_world_process_zero():
            with opened(path) as top:
                remove_tree(top, UNIVERSAL)
    if trainer.saving.failure or trainer.stopped_by:
        return
    # The first process says so for all: for others its writer may not have come to the end, and keeping is collective.
    first = trainer.is_world_process_zero()
    (is_kept,) = broadcast_object_list([first and trainer.state.global_step in Manifest.load(path).kept])
    if not is_kept:
        trainer.keep_step(trainer.latest)
        trainer.saving.writer.wait()


def _is_done(trainer: GrokTrainer, checkpoint: str | None) -> bool:
    """Return whether a run that stopped at this checkpoint had been trained to its end."""
    if checkpoint is None:
        return False
    options = trainer.recipe.options
    grokked = options.stop_when == "grokked" and trainer.grok.streak >= options.stop_patience
    return grokked or step_of(checkpoint) >= trainer.total_steps


def measure_all(trainer: GrokTrainer) -> None:
    """Measures all rows of every split at the last step, by decoding too, and lets the other processes go."""
    import torch

    doing("measuring all rows of every split")
    trainer.evaluate_every_row()
    if not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):  # a model in parts cannot decode alone
        trainer.check_by_decoding()
    # A signal that reached one process too late for a step to end with it ends all of them here.
    asked = torch.tensor([REQUEST.number or 0], device=trainer.args.device)
    REQUEST.number = int(trainer.accelerator.gather(asked).max()) or None
    leave_group(trainer)
    REQUEST.release()  # the first process goes on alone


def leave_group(trainer: GrokTrainer) -> None:
    """Ends what binds the processes; those that leave without a word abort each other at times."""
    if trainer.args.world_size > 1:
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.end_training()
