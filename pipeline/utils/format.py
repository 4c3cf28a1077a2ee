"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "–"
LEARNED = 0.99  # an exact match from which a split counts as learned, as `runs.grokking` judges it


def share(value: float | None) -> str:
    """Return an exact match with three decimals, and with more where rounding would take it across 0, 0.99 or 1."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "not finite"
    for digits in range(3, 9):
        text = f"{value:.{digits}f}"
        shown = float(text)
        if (shown >= LEARNED) == (value >= LEARNED) and (shown >= 1) == (value >= 1) and (shown > 0) == (value > 0):
            break
    return text


def amount(value: float | None) -> str:
    """Return a measured quantity with three digits, a whole number with all of them."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "not finite"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if 1e-4 <= abs(value) < 1e6:
        digits = 2 - math.floor(math.log10(abs(value)))
        return f"{value:,.{max(digits, 0)}f}"
    factor, exponent = f"{value:.2e}".split("e")
    return f"{factor}e{int(exponent)}"


def times(gap: float | None) -> str:
    """Return a ratio of steps: 6.0, 48."""
    return MISSING if gap is None else f"{gap:.1f}" if gap < 9.95 else f"{gap:,.0f}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    for length, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def size(count: float) -> str:
    """Return bytes: 512 bytes, 25.0 MB."""
    for length, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count:.0f} bytes"


def listed(words: Sequence[str]) -> str:
    """a, b and c"""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def no_formula(text: str) -> str:
    """Return a text as a cell of a CSV file; before one that a spreadsheet would compute comes an apostrophe."""
    if text[:1] not in ("=", "+", "-", "@", "\t", "\r") or not any(map(str.isalnum, text)):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
