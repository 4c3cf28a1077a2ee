"""The exit status of a run, which is one process or several, and the line that says what kept it from its end."""

from __future__ import annotations

import sys
from collections.abc import Callable

from pipeline.utils import launcher
from pipeline.utils.errors import RecipeError
from pipeline.utils.files import DiskError
from pipeline.utils.signals import Stopped
from pipeline.utils.terminal import say

MISTAKE = 2


def exit_status(work: Callable[[], int]) -> int:
    """Does the work of a run, and returns its exit status, which launchers are told too.

    Of several processes one says what is wrong, for all of its machine.
    """
    launcher.quiet_torch()
    launcher.end_with_parent()
    status = _status_of(work)
    launcher.tell_status(status)
    if status == MISTAKE and launcher.speaks():
        launcher.end_launcher()
    return status


def _status_of(work: Callable[[], int]) -> int:
    try:
        return work()
    except RecipeError as error:
        # The others wait for the launcher to end them, as it does where the one that speaks has found the same.
        if (launcher.speaks() or not launcher.is_ended()) and not launcher.is_said():
            say(error, file=sys.stderr)
        return MISTAKE
    except Stopped as stop:
        if launcher.is_first():
            say("", f"stopped by {stop.name}; the same command goes on from the last checkpoint", file=sys.stderr)
        return stop.status
    except DiskError as error:
        say(f"{error}; nothing that was saved is lost, and the same command goes on from there", file=sys.stderr)
        return 1
    except RuntimeError:
        if launcher.speaks() or not launcher.is_ended():
            raise
        return 1  # another process of this machine has said why
