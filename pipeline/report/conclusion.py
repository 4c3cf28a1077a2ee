"""The end of the main job, once the last step is measured: the report, the analyses, and the run marked as finished."""

from __future__ import annotations

import sys
from functools import partial

from pipeline.circuits.failures import record_failure, reminders
from pipeline.circuits.runner import explain
from pipeline.config.trust import trusts
from pipeline.report.run_report import draw_report, summary
from pipeline.runs.manifest import Manifest
from pipeline.training.trackers import finish_trackers, tracked_name
from pipeline.training.trainer import GrokTrainer
from pipeline.utils.terminal import say


def conclude(trainer: GrokTrainer) -> bool:
    """Draws the report, runs the analyses and marks the run as finished; whether an analysis failed.

    The report is there before the analyses are run: one that fails is a line in it, and the run is finished.
    """
    recipe, args, path = trainer.recipe, trainer.args, trainer.recipe.output_dir
    if recipe.circuits:
        draw_report(path)
    on_failure = partial(record_failure, path)
    for _ in explain(path, recipe.circuits, args.device, trusted=trusts(recipe.model), on_failure=on_failure):
        pass
    results, undrawn = draw_report(path)
    trackers = list(args.report_to or ())
    finish_trackers(trackers, results, tracked_name(recipe), args.project, recipe.options.track_steps)
    manifest = Manifest.load(path)
    manifest.finished = trainer.outcome()
    manifest.save(path)
    say(*summary(results).splitlines())
    say(*reminders(path), file=sys.stderr)
    return bool(reminders(path) or undrawn)
