"""Trains runs of one model as one step: a process of `python -m pipeline.sweep --stack`.

python -m pipeline.training FILE

FILE has the words of each run, as the sweep wrote them. How the training of each ended is written beside it: an empty
text at the last step, else the reason. What comes after training, each run does by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.outside import read_here
from pipeline.kernels.host import wait_briefly
from pipeline.runs import forks, opening, stages
from pipeline.runs.lock import RunLock
from pipeline.sweep.grid import Point
from pipeline.sweep.stacks import outcome_of, read_words
from pipeline.utils import launcher
from pipeline.utils.errors import ParameterError
from pipeline.utils.exit_status import exit_status
from pipeline.utils.files import write_json
from pipeline.utils.log import log
from pipeline.utils.signals import SAVED, stop_signals
from pipeline.utils.terminal import run_command

if TYPE_CHECKING:
    from pipeline.training.stack import Member


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status: 0 all are trained, 1 one failed, 2 a mistake, 75 stopped and saved."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.training", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "file", type=Path, help="the words of each run, as python -m pipeline.sweep --stack writes them"
    )
    chosen = parser.parse_args(argv)
    wait_briefly()
    return exit_status(lambda: _in_time(chosen.file))


def _in_time(path: Path) -> int:
    with stop_signals():
        return _train(path)


def _train(path: Path) -> int:
    """Trains the runs of a file, from where each of them is, and writes down how each ended."""
    points = [_point(words) for words in read_words(path)]
    with contextlib.ExitStack() as locks:
        for point in points:
            opening.open_run(point.recipe)
            locks.enter_context(RunLock(point.folder, lost=launcher.end_at_once))
            opening.check_streams(point.folder, opening.open_run(point.recipe))
        members, began = _prepared(points), time.monotonic()
        from pipeline.training.stack import Stack

        stack = Stack(members)
        stack.run()
        seconds = time.monotonic() - began
        speed = f"{stack.updates:,} updates in {seconds:.1f} s, {stack.updates / seconds:,.0f} a second"
        log.info(f"{len(members)} runs in one step: {speed}")
    endings = {point.name: member.ending() for point, member in zip(points, members)}
    write_json(outcome_of(path), endings)
    for member in members:
        if member.error is not None:
            raise member.error
    if any(member.trainer.saving.failure for member in members):
        return 1
    return SAVED if any(endings.values()) else 0


def _point(words: Sequence[str]) -> Point:
    recipe = forks.pinned(stages.on_step(read_here(words[0], words[1:])))
    return Point(recipe.output_dir.name, recipe)


def _prepared(points: Sequence[Point]) -> list[Member]:
    """The runs with their corpora, models and trainers; all of them fit together.

    Raises:
        RecipeError: when one of them cannot be part of the stack.
    """
    from pipeline.training.session import prepare
    from pipeline.training.stack import Member
    from pipeline.training.stacking import check_stack

    members = []
    for point in points:
        try:
            members.append(Member(prepare(point.recipe, is_stacked=True), point.log))
        except ParameterError as error:
            raise point.recipe.located(error) from None
    try:
        check_stack([member.trainer for member in members])
    except ParameterError as error:
        raise points[0].recipe.located(error) from None
    return members


if __name__ == "__main__":
    run_command(main)
