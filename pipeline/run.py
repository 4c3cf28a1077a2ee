"""Recipe to run: the main job.

accelerate launch pipeline/run.py recipes/grok_gpt2.yaml [--key value ...]
python -m pipeline.run --help
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # started as a script: Python has put pipeline/ on the path, where its parent belongs
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pipeline import folder, launcher, usage
from pipeline.announcing import announcement, ending
from pipeline.arguments import training_arguments
from pipeline.engines import UNIVERSAL, in_force, prepare_engine, regrouped, undivided
from pipeline.failures import reminders
from pipeline.files import DiskError, writing
from pipeline.finishing import finish, leave_group, publish
from pipeline.grokking import PROBE, judged_split
from pipeline.history import read_lines
from pipeline.inside import opened, remove_tree
from pipeline.lock import LOCK, RunLock
from pipeline.manifest import Manifest
from pipeline.outside import check_outside
from pipeline.parameters import ParameterError
from pipeline.process import wait_briefly
from pipeline.reading import RecipeError
from pipeline.recipe import Recipe, read_recipe
from pipeline.rooms import load
from pipeline.signals import REQUEST, SAVED, Stopped, stop_signals
from pipeline.terminal import run_command, say

if TYPE_CHECKING:
    from pipeline.trainer import GrokTrainer

# Callbacks of every run; a recipe's `callbacks:` block sets their parameters, or adds others.
# `finite` comes first: what is not a number is neither kept nor saved.
CALLBACKS = ("finite", "metrics_log", "weight_norm", "stop", "keep_steps", "progress", "preemption")

MISTAKE = 2  # exit status


def main(argv: list[str] | None = None) -> int:
    """Runs a recipe. Returns the exit status.

    0 done; 1 training failed, an analysis after it, or the disk; 2 a mistake in the recipe; 75 stopped by a signal
    with everything saved, so that the same command goes on; 128 and the signal's number, stopped at once by a second
    signal. Launchers make a 1 of them all: the first process also writes the status to the file that GROKLAB_STATUS
    names.
    """
    launcher.end_with_parent()
    status = _main(sys.argv[1:] if argv is None else argv)
    launcher.tell_status(status)
    if status == MISTAKE and launcher.speaks():
        launcher.end_launcher()
    return status


def _end_at_once(reason: str) -> None:
    """Ends this process, whatever it does: its folder belongs to another run now, and nothing more is written to it."""
    print(f"\n{reason}", file=sys.stderr, flush=True)
    launcher.tell_status(1)
    os._exit(1)


def _main(argv: list[str]) -> int:
    try:
        if usage.wants_help(argv):
            print(usage.help_text(argv))
            return 0 if argv else 2
        path, overrides = usage.split_words(argv)
        if path is None:
            raise RecipeError("command line", "no recipe; name one, such as recipes/quickstart.yaml")
        with stop_signals(is_bound=launcher.processes().world > 1):
            recipe = read_recipe(path, overrides)
            try:
                check_outside(recipe)
            except ParameterError as error:
                raise recipe.located(error) from None
            try:
                return run(recipe)
            except RuntimeError:
                if launcher.speaks() or not launcher.is_ended():
                    raise
                return 1  # another process of this machine has said why
    except RecipeError as error:
        if launcher.speaks():
            print(error, file=sys.stderr)
        else:
            time.sleep(launcher.LAST_WORDS)
        return MISTAKE
    except Stopped as stop:
        if launcher.is_first():
            print(f"\nstopped by {stop.name}; the same command goes on from the last checkpoint", file=sys.stderr)
        return stop.status
    except DiskError as error:
        print(f"{error}; nothing that was saved is lost, and the same command goes on from there", file=sys.stderr)
        return 1


def run(recipe: Recipe) -> int:
    """Trains what the recipe says, from the start or from where an earlier run of it stopped, and reports."""
    manifest = folder.open_run(recipe)
    if folder.is_finished(recipe, manifest):
        if (recipe.output_dir / LOCK).exists() and launcher.is_first():
            with RunLock(recipe.output_dir):  # of a process that was killed after its last word; or it is still there
                pass
        print(f"{recipe.output_dir} is finished; its report is {recipe.output_dir / 'report.html'}")
        REQUEST.release()
        print("".join(f"{line}\n" for line in reminders(recipe.output_dir)), end="")
        return publish(recipe)
    folder.check_streams(recipe.output_dir, manifest)
    with (
        RunLock(recipe.output_dir, lost=_end_at_once) if launcher.is_first() else nullcontext(),
        writing(recipe.output_dir),
    ):
        try:
            trainer = prepare(recipe)
            train(trainer)
        except ParameterError as error:
            raise recipe.located(error) from None
        if trainer.failure or trainer.stopped_by:
            leave_group(trainer)
            if launcher.is_first():
                print(ending(trainer), file=sys.stderr)
            return 1 if trainer.failure else SAVED
        failed = finish(trainer)
        return max(publish(recipe), int(failed))


def prepare(recipe: Recipe) -> GrokTrainer:
    """Corpus, model and trainer of a recipe, and the description of the run in its folder."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    wait_briefly()
    from transformers.utils import logging

    from pipeline.data import check_held_out, check_rows
    from pipeline.explain import check_analyses, check_model
    from pipeline.readers import for_readers
    from pipeline.seeds import seed_weights
    from pipeline.store import build
    from pipeline.trackers import prepare_trackers, tracked_name
    from pipeline.trainer import GrokTrainer
    from pipeline.words import check_text

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
    with args.main_process_first(desc="corpus"):
        try:
            stored = build(recipe.corpus)
        except ParameterError as error:
            raise error.inside("corpus") from None
    folder.check_corpus(recipe.output_dir, stored)
    texts = folder.texts_of(recipe)
    folder.check_texts(recipe.output_dir, texts)
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
    train_rows = train_rows.whole() if recipe.options.loss_tokens == "all" else train_rows
    if recipe.replay:
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        train_rows = recipe.replay.mixed_with(train_rows, tokenizer, batch)
    check_rows(recipe, train_rows)
    chosen = check_analyses(recipe, stored)
    seed_weights(args.seed)
    with undivided(args):
        model = recipe.model.for_corpus(stored)
    check_model(recipe, model, chosen)
    if args.should_save:
        folder.write_description(recipe, stored)
        prepare_trackers(list(args.report_to or ()), recipe.output_dir, args.project)
    if recipe.peft:
        recipe.peft.into(model, recipe.model.added(stored), getattr(recipe.model, "revision", None))
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ParameterError("model.freeze", "leaves no weight to train; name fewer")
    if args.should_save:
        folder.write_tokenizer(recipe.output_dir, for_readers(tokenizer, model.config))
    callbacks: dict[str, Any] = {name: load("callbacks", name, "callbacks")() for name in CALLBACKS}
    callbacks |= recipe.callbacks
    trainer = GrokTrainer(model, args, recipe, train_rows, splits, stored.held_out, tokenizer, list(callbacks.values()))
    found = in_force(trainer)
    if args.should_save and (changed := folder.record_start(recipe.output_dir, found, texts)):
        trainer.notes.append(f"since the last start: {'; '.join(changed)}; bits may differ from there on")
    return trainer


def train(trainer: GrokTrainer) -> None:
    """Trains from the newest whole checkpoint, or from the start, until the last step is kept."""
    from accelerate.utils import broadcast_object_list

    path, checkpoint = trainer.recipe.output_dir, None
    if trainer.is_world_process_zero():
        checkpoint = folder.go_back(path)
        for line in read_lines(path, "_exact_match"):
            trainer.grok.update(line["step"], line)
        folder.record_length(path, trainer.total_steps)
        say(*announcement(trainer, checkpoint).splitlines())
    checkpoint, trainer.grok = broadcast_object_list([checkpoint, trainer.grok])
    if trainer.is_done(checkpoint):
        trainer.load_weights(checkpoint)
    else:
        trainer.args.eval_on_start = checkpoint is None
        try:
            trainer.train(resume_from_checkpoint=checkpoint and regrouped(trainer, checkpoint))
        except pickle.UnpicklingError:
            raise RecipeError(
                "output_dir", f"{checkpoint} holds code in the place of weights, which is not run; delete it to go on"
            ) from None
        if trainer.is_world_process_zero():
            with opened(path) as top:
                remove_tree(top, UNIVERSAL)
    if trainer.failure or trainer.stopped_by:
        return
    if trainer.state.global_step not in Manifest.load(path).kept:
        trainer.keep_step(trainer.latest)
        trainer.writer.wait()


if __name__ == "__main__":
    run_command(main)
