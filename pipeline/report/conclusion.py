"""The end of the main job, once the last step is measured: the report, the analyses, and the run marked as finished."""

from __future__ import annotations

from functools import partial
from typing import Any

from pipeline.circuits.failures import record_failure, reminders
from pipeline.circuits.progress import expected, watched
from pipeline.circuits.runner import explain
from pipeline.report.run_report import draw_report, summary
from pipeline.training.trackers import finish_trackers, tracked_name
from pipeline.training.trainer import GrokTrainer
from pipeline.utils.doing import doing
from pipeline.utils.log import log
from pipeline.utils.terminal import in_lines


def conclude(trainer: GrokTrainer) -> bool:
    """Draws the report, runs the analyses and marks the run as finished; whether an analysis failed.

    The report is there before the analyses are run: one that fails is a line in it, and the run is finished.
    """
    run, recipe, args, path = trainer.folder, trainer.recipe, trainer.args, trainer.folder.path
    if recipe.circuits:
        doing("drawing the report")
        draw_report(run)
    on_failure = partial(record_failure, path)
    tables = explain(run, recipe.circuits, args.device, on_failure=on_failure)
    for _ in watched(tables, expected(run, recipe.circuits)):
        pass
    doing("drawing the report")
    undrawn = draw_report(run)
    trackers = list(args.report_to or ())
    callbacks = trainer.callback_handler.callbacks
    finish_trackers(trackers, run, tracked_name(recipe), args.project, recipe.options.track_steps, callbacks)
    run.manifest.finished = _outcome(trainer)
    run.manifest.save(path)
    for line in summary(run).splitlines():
        for part in in_lines(line):
            log.info(part)
    for line in reminders(path):
        log.warning(line)
    return bool(reminders(path) or undrawn)


def _outcome(trainer: GrokTrainer) -> dict[str, Any]:
    """What the manifest says of a finished run: where it ended, how long it was to be, and what was reached."""
    step, args = trainer.state.global_step, trainer.args
    ended = {"step": step, "stopped": step < trainer.total_steps}
    asked = {} if args.max_steps > 0 else {"num_train_epochs": args.num_train_epochs}
    return {**ended, **asked, "streak": trainer.grok.streak, **trainer.grok.summary()}
