"""What the main job does after its last step: all rows measured, the report, the analyses, and a push."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from pipeline import launcher
from pipeline.failures import record_failure, reminders
from pipeline.manifest import Manifest
from pipeline.recipe import Recipe
from pipeline.signals import REQUEST
from pipeline.terminal import say
from pipeline.trust import trusts

if TYPE_CHECKING:
    from pipeline.trainer import GrokTrainer


def leave_group(trainer: GrokTrainer) -> None:
    """Ends what binds the processes; those that leave without a word abort each other at times."""
    if trainer.args.world_size > 1:
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.end_training()


def finish(trainer: GrokTrainer) -> bool:
    """Measures all rows once more, draws the report, and marks the run as finished; whether an analysis failed.

    The report is there before the analyses are run: one that fails is a line in it, and the run is finished.
    """
    import torch

    from pipeline.explain import explain
    from pipeline.report import draw_report, summary
    from pipeline.trackers import finish_trackers, tracked_name

    path = trainer.recipe.output_dir
    trainer.evaluate_every_row()
    if not (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):  # a model in parts cannot decode alone
        trainer.check_by_decoding()
    # A signal that reached one process too late for a step to end with it ends all of them here.
    REQUEST.number = (
        int(trainer.accelerator.gather(torch.tensor([REQUEST.number or 0], device=trainer.args.device)).max()) or None
    )
    leave_group(trainer)
    REQUEST.release()  # the first process goes on alone
    if trainer.is_world_process_zero():
        if trainer.recipe.circuits:
            draw_report(path)
        circuits, trusted = trainer.recipe.circuits, trusts(trainer.recipe.model)
        on_failure = partial(record_failure, path)
        for _ in explain(path, circuits, trainer.args.device, trusted=trusted, on_failure=on_failure):
            pass
        results, undrawn = draw_report(path)
        trackers = list(trainer.args.report_to or ())
        finish_trackers(
            trackers, results, tracked_name(trainer.recipe), trainer.args.project, trainer.recipe.options.track_steps
        )
        manifest = Manifest.load(path)
        manifest.finished = trainer.outcome()
        manifest.save(path)
        say(*summary(results).splitlines())
        say(*reminders(path), file=sys.stderr)
        return bool(reminders(path) or undrawn)
    return False


def publish(recipe: Recipe) -> int:
    """Pushes a finished run where the recipe says so; the same command goes on with a push that failed."""
    if not recipe.training.get("push_to_hub") or not launcher.is_first():
        return 0
    from pipeline.hub import push
    from pipeline.remote import HubError

    repository = recipe.training["hub_model_id"]
    try:
        for line in push(recipe.output_dir, repository, private=recipe.training.get("hub_private_repo")):
            say(line)
    except HubError as error:
        say(f"{error}; the run is finished, and the same command pushes what is missing", file=sys.stderr)
        return 1
    return 0
