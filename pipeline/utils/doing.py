"""What a command is busy with, on a terminal: one line, of which the next thing that is said takes the place."""

from __future__ import annotations

import os
import sys

ERASE = "\r\x1b[K"


class Doing:
    """The line at the foot of a terminal. Output that nobody watches has none, nor has any process but the first."""

    def __init__(self) -> None:
        self.is_shown = False

    def __call__(self, text: str) -> None:
        """Show what is going on now, such as `loading torch`."""
        if sys.stderr is not None and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
            sys.stderr.write(f"{ERASE}{''.join(sign if sign.isprintable() else ' ' for sign in text)} ...")
            sys.stderr.flush()
            self.is_shown = True

    def clear(self) -> None:
        """Take the line away, before anything else is said."""
        if self.is_shown:
            self.is_shown = False
            sys.stderr.write(ERASE)
            sys.stderr.flush()


doing = Doing()
