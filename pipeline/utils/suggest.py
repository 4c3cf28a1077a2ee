"""Did you mean ...? The closest of the words that are allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_LISTED = 200  # characters of a list of names that a message can hold


def did_you_mean(word: str, options: Iterable[str], otherwise: str = "", most: float = MOST_LISTED) -> str:
    """Return a clause such as `; did you mean ratio? allowed: ratio, seed`.

    It names the closest of `options`, and all of them where they take at most so many characters; with neither it is
    what `otherwise` says.
    """
    options, word = list(options), word.lower()
    part = [option for option in options if len(word) > 2 and word in option]
    close = [option for option in part if option.startswith(word)]
    close += difflib.get_close_matches(word, options, n=1, cutoff=0.7) + part
    listed = ", ".join(options)
    clauses = [f"did you mean {close[0]}?"] if close else []
    clauses += [f"allowed: {listed}"] if 0 < len(listed) <= most else []
    clause = " ".join(clauses) or otherwise
    return f"; {clause}" if clause else ""
