"""What every command does with the terminal it writes to: one that lacks characters, or that nobody reads."""

from __future__ import annotations

import atexit
import errno
import functools
import io
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn, ParamSpec, TextIO, cast

from pipeline.utils.files import DiskError, writing
from pipeline.utils.launcher import is_under_launcher

P = ParamSpec("P")
# What says that nobody reads: a pipe whose reader has ended, a terminal that is gone.
UNREAD = (errno.EPIPE, errno.EIO)


class _Output(io.FileIO):
    """A file whose writer goes on when it cannot be written; `failure` says why, unless only its reader is gone."""

    failure: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in UNREAD:
                self.failure = error
            return memoryview(content).nbytes


def _steady(stream: TextIO) -> tuple[TextIO, _Output]:
    """Return a stream like this one that replaces what its encoding lacks, over a file that is never in the way."""
    raw = _Output(stream.fileno(), "wb", closefd=False)
    is_raw = isinstance(getattr(stream, "buffer", None), io.RawIOBase)  # python -u
    return cast(
        TextIO,
        io.TextIOWrapper(
            cast(Any, raw) if is_raw else io.BufferedWriter(raw),
            encoding=stream.encoding,
            errors="replace",
            line_buffering=is_raw or stream.isatty(),
            write_through=is_raw,
        ),
    ), raw


def say(*lines: object, file: TextIO | None = None) -> None:
    """Prints lines that may hold text of a folder or a repository, without what would control the terminal."""
    for line in lines:
        text = "".join(sign if sign.isprintable() else " " for sign in str(line))
        print(text, file=file, flush=True)


def in_lines(text: str) -> list[str]:
    """A paragraph in lines that end between words where a terminal's do; one line where nobody watches."""
    if not is_watched(sys.stdout):
        return [text]
    columns = shutil.get_terminal_size().columns
    return textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False) or [""]


def is_watched(stream: Any) -> bool:
    """Whether a person sees a stream as it is written; a wish for colours, as FORCE_COLOR is, makes none of a pipe."""
    return stream is not None and bool(stream.isatty())


def run_command(main: Callable[[], int]) -> NoReturn:
    """Runs a command and ends the process with its status.

    A reader that ends early, as in `| head -1`, ends only what it reads: a run trains on, and keeps everything.
    """
    logging.getLogger("DeepSpeed").addFilter(_is_news)
    final: list[int] = []
    if is_under_launcher():
        atexit.register(_end, final)
    outputs = []
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            steady, raw = _steady(stream)
        except (AttributeError, OSError, ValueError):  # closed, or not a file
            continue
        stream.flush()
        setattr(sys, name, steady)
        outputs.append(raw)
    try:
        status = in_a_line(main)()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        status = 130
    failure = next((raw.failure for raw in outputs if raw.failure), None)
    if failure:
        print(f"the output could not be written: {os.strerror(failure.errno or 0)}", file=sys.stderr)
    final.append(status or (1 if failure else 0))
    sys.exit(final[0])


def _end(final: list[int]) -> None:
    """Ends a process of several with its status, before Python takes its modules apart.

    Threads of torch's process group outlive the group, and one that asks for the interpreter meanwhile aborts the
    process. What is registered first is called last: all that libraries do at an exit is done by now.
    """
    if final:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(final[0])


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line of DeepSpeed says more than that this machine has no GPU, which it prints into the output."""
    return "Setting accelerator to CPU" not in record.getMessage()


def in_a_line(main: Callable[P, int]) -> Callable[P, int]:
    """Lets a command say in one line, with status 1, what a disk refuses: full, read-only, not allowed."""

    @functools.wraps(main)
    def command(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            with writing():
                return main(*args, **kwargs)
        except DiskError as error:
            print(error, file=sys.stderr)
            return 1

    return command
