"""What a run and its parts say while they work: a line each, what goes on to stdout, what needs an eye to stderr."""

from __future__ import annotations

import logging
import os
import sys

from pipeline.utils.doing import doing


class _Lines(logging.Handler):
    """Writes each record as one line, without what would control the terminal.

    The streams are looked up at each record, since commands and live displays put others in their place.
    """

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        doing.clear()
        if stream is not None:  # closed before the start
            stream.write("".join(sign if sign.isprintable() else " " for sign in record.getMessage()) + "\n")
            stream.flush()


def _from_first(record: logging.LogRecord) -> bool:
    """Return whether a record is of the first process, or so grave that any process says it."""
    return record.levelno >= logging.WARNING or os.environ.get("RANK", "0") == "0"


log = logging.getLogger("pipeline")
log.setLevel(logging.INFO)
log.propagate = False  # libraries put handlers of their own on the root
if not log.handlers:
    _handler = _Lines()
    _handler.addFilter(_from_first)
    log.addHandler(_handler)
