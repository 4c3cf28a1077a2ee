"""What a command is busy with, on a terminal: one line, of which the next thing that is said takes the place."""

from __future__ import annotations

import os
import shutil
import sys

ERASE = "\r\x1b[K"
WIDTH = 24  # columns of a bar


class Doing:
    """The line at the foot of a terminal. Output that nobody watches has none, nor has any process but the first."""

    def __init__(self) -> None:
        self.is_shown = False

    def __call__(self, text: str, done: int = 0, total: int = 0) -> None:
        """Show what is going on now, such as `loading torch`; of several things, how many are done, as a bar."""
        if sys.stderr is not None and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
            bar = f"{_bar(done / total)} {done}/{total} " if total else ""
            room = shutil.get_terminal_size().columns - len(bar) - len(" ...") - 1  # a line that wraps is not erased
            text = "".join(sign if sign.isprintable() else " " for sign in text)
            sys.stderr.write(f"{ERASE}{bar}{text[: max(room, 0)]} ...")
            sys.stderr.flush()
            self.is_shown = True

    def clear(self) -> None:
        """Take the line away, before anything else is said."""
        if self.is_shown:
            self.is_shown = False
            sys.stderr.write(ERASE)
            sys.stderr.flush()


def _bar(share: float) -> str:
    filled = round(share * WIDTH)
    return f"[{'#' * filled}{'.' * (WIDTH - filled)}]"


doing = Doing()
