"""Recipe to run: the main job.

accelerate launch pipeline/run.py recipes/grok_gpt2.yaml [--key value ...]
python -m pipeline.run --help
"""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from pathlib import Path

if not __package__:  # started as a script: Python has put pipeline/ on the path, where its parent belongs
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from pipeline.circuits.failures import reminders
from pipeline.config import help
from pipeline.config.outside import read_here
from pipeline.config.recipe import Recipe
from pipeline.runs import forks, opening, stages
from pipeline.runs.lock import LOCK, RunLock
from pipeline.utils import launcher
from pipeline.utils.drafts import clean, left_behind
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.files import DiskError, writing
from pipeline.utils.signals import REQUEST, SAVED, Stopped, stop_signals
from pipeline.utils.terminal import run_command

MISTAKE = 2  # exit status


def main(argv: list[str] | None = None) -> int:
    """Runs a recipe. Returns the exit status.

    0 done; 1 training failed, an analysis after it, or the disk; 2 a mistake in the recipe; 75 stopped by a signal
    with everything saved, so that the same command goes on; 128 and the signal's number, stopped at once by a second
    signal. Launchers make a 1 of them all: the first process also writes the status to the file that GROKLAB_STATUS
    names.
    """
    launcher.quiet_torch()
    launcher.end_with_parent()
    status = _main(sys.argv[1:] if argv is None else argv)
    launcher.tell_status(status)
    if status == MISTAKE and launcher.speaks():
        launcher.end_launcher()
    return status


def _main(argv: list[str]) -> int:
    try:
        if help.wants_help(argv):
            print(help.help_text(argv))
            return 0 if argv else MISTAKE
        with stop_signals(is_bound=launcher.processes().world > 1):
            return run(_read(argv))
    except RecipeError as error:
        if not launcher.speaks():
            time.sleep(launcher.LAST_WORDS)  # in which the launcher ends it, where another one has found the same
        print(error, file=sys.stderr)
        return MISTAKE
    except Stopped as stop:
        if launcher.is_first():
            print(f"\nstopped by {stop.name}; the same command goes on from the last checkpoint", file=sys.stderr)
        return stop.status
    except DiskError as error:
        print(f"{error}; nothing that was saved is lost, and the same command goes on from there", file=sys.stderr)
        return 1
    except RuntimeError:
        if launcher.speaks() or not launcher.is_ended():
            raise
        return 1  # another process of this machine has said why


def _read(argv: list[str]) -> Recipe:
    path, overrides = help.split_words(argv)
    if path is None:
        raise RecipeError("command line", "no recipe; name one, such as recipes/quickstart.yaml")
    return read_here(path, overrides)


def run(recipe: Recipe) -> int:
    """Trains what the recipe says, from the start or from where an earlier run of it stopped, and reports."""
    if status := stages.train_earlier(recipe):
        return status
    recipe = forks.pinned(stages.on_step(recipe))
    manifest = opening.open_run(recipe)
    if opening.is_finished(recipe, manifest):
        return _finished(recipe)
    opening.check_streams(recipe.output_dir, manifest)
    from pipeline.hub.push import publish
    from pipeline.report.conclusion import conclude
    from pipeline.training.announcement import ending
    from pipeline.training.session import leave_group, measure_all, prepare, train

    lock = RunLock(recipe.output_dir, lost=launcher.end_at_once) if launcher.is_first() else nullcontext()
    with lock, writing(recipe.output_dir):
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
    if launcher.is_first() and ((path / LOCK).exists() or any(left_behind(path, is_owner=False))):
        with RunLock(path):  # of a process that was killed after its last word; or it is still there
            clean(path, is_owner=True)
    print(f"{path} is finished; its report is {path / 'report.html'}")
    REQUEST.release()
    print("".join(f"{line}\n" for line in reminders(path)), end="")
    return publish(recipe)


if __name__ == "__main__":
    run_command(main)
