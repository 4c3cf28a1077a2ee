"""Recipe to run: the main job.

accelerate launch pipeline/run.py recipes/grok_gpt2.yaml [--key value ...]
python -m pipeline.run --help
python -m pipeline.run RECIPE --check
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path

if not __package__:  # started as a script: Python has put pipeline/ on the path, where its parent belongs
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pipeline.circuits.failures import reminders
from pipeline.config import help
from pipeline.config.outside import read_here
from pipeline.config.recipe import Recipe
from pipeline.kernels.host import wait_briefly
from pipeline.runs import forks, opening, stages
from pipeline.runs.lock import RunLock
from pipeline.utils import launcher
from pipeline.utils.doing import doing
from pipeline.utils.errors import ParameterError
from pipeline.utils.exit_status import MISTAKE, exit_status
from pipeline.utils.files import writing
from pipeline.utils.signals import REQUEST, SAVED, stop_signals
from pipeline.utils.terminal import run_command, say


def main(argv: list[str] | None = None) -> int:
    """Runs a recipe. Returns the exit status.

    0 done; 1 training failed, an analysis after it, or the disk; 2 a mistake in the recipe; 75 stopped by a signal
    with everything saved, so that the same command goes on; 128 and the signal's number, stopped at once by a second
    signal. Launchers make a 1 of them all: the first process also writes the status to the file that GROKLAB_STATUS
    names.
    """
    words = sys.argv[1:] if argv is None else argv
    try:
        return exit_status(lambda: _answer(words))
    finally:
        doing.clear()


def _answer(words: list[str]) -> int:
    if help.wants_help(words):
        print(help.help_text(words))
        return 0 if words else MISTAKE
    words, wanted = help.split_check(words)
    recipe = read_here(*help.split_words(words))
    if wanted == help.READ:
        say(f"{recipe.source} can be read: {recipe.name} would be in {recipe.output_dir}")
        return 0
    wait_briefly()  # before any module that imports torch
    with stop_signals(is_bound=launcher.processes().world > 1):
        return check(recipe) if wanted else run(recipe)


def check(recipe: Recipe) -> int:
    """Says what a run would take on this machine, without leaving anything; 1 where the disk is too small."""
    if stage := stages.lacking(recipe):
        say(f"{recipe.source} goes on from {stage.source}, which is trained first; of that:")
        return check(stage)
    recipe = forks.pinned(stages.on_step(recipe))
    manifest = opening.open_run(recipe)
    from pipeline.training import checking

    try:
        found = checking.check(recipe)
    except ParameterError as error:
        raise recipe.located(error) from None
    last = max(manifest.resumable, default=None)
    state = "is finished" if opening.is_finished(recipe, manifest) else "is new"
    state = f"would go on after step {last:,}" if last is not None and state == "is new" else state
    if launcher.is_first():
        say(f"{recipe.name} in {recipe.output_dir} {state}", *found.lines())
    return 0 if found.fits_disk else 1


def run(recipe: Recipe) -> int:
    """Trains what the recipe says, from the start or from where an earlier run of it stopped, and reports."""
    if status := stages.train_earlier(recipe):
        return status
    recipe = forks.pinned(stages.on_step(recipe))
    if not opening.is_finished(recipe, opening.open_run(recipe)):
        is_one_of_many = launcher.WAITS in os.environ
        lock = RunLock(recipe.output_dir, lost=launcher.end_at_once, waits=is_one_of_many)
        with lock if launcher.is_first() else nullcontext(), writing(recipe.output_dir):
            manifest = opening.open_run(recipe)  # as the one has left it that this one has waited for
            if not opening.is_finished(recipe, manifest):
                opening.check_streams(recipe.output_dir, manifest)
                return _train(recipe)
    return _finished(recipe)


def _train(recipe: Recipe) -> int:
    """Trains to the last step, or to a signal; then measures, reports and publishes."""
    doing("loading torch")
    from pipeline.hub.push import publish
    from pipeline.report.conclusion import conclude
    from pipeline.training.announcement import ending
    from pipeline.training.session import leave_group, measure_all, prepare, train

    try:
        trainer = prepare(recipe)
        train(trainer)
    except ParameterError as error:
        raise recipe.located(error) from None
    if trainer.saving.failure or trainer.stopped_by:
        leave_group(trainer)
        if launcher.is_first():
            print(ending(trainer), file=sys.stderr)
        return 1 if trainer.saving.failure else SAVED
    measure_all(trainer)
    failed = conclude(trainer) if trainer.is_world_process_zero() else False
    return max(publish(recipe), int(failed))


def _finished(recipe: Recipe) -> int:
    """Says that nothing is left to train, and goes on with a push that failed."""
    from pipeline.hub.push import publish

    path = recipe.output_dir
    if launcher.is_first():
        opening.clean_finished(path)
    print(f"{path} is finished; its report is {path / 'report.html'}")
    REQUEST.release()
    print("".join(f"{line}\n" for line in reminders(path)), end="")
    return publish(recipe)


if __name__ == "__main__":
    run_command(main)
