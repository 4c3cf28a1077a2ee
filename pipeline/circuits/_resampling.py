"""Means over pairs that are drawn anew, with replacement: how far scores of edges would go with other pairs."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.utils.draws import Draws

Floats = npt.NDArray[np.floating[Any]]
Doubles = npt.NDArray[np.float64]
HELD = 1 << 26  # numbers that stand in memory, 256 MB; more of them stand in a file
AT_ONCE = 1 << 22  # means


def room(rows: int, columns: int) -> npt.NDArray[np.float32]:
    """Zeros (rows, columns), in memory or, where they are many, in a file that is gone with them."""
    if rows * columns <= HELD:
        return np.zeros((rows, columns), np.float32)
    return np.memmap(tempfile.TemporaryFile(), np.float32, "w+", shape=(rows, columns))


def shares(n: int, draws: int, seed: int) -> Doubles:
    """How large a part of a sample each of n rows is, (draws, n); a sample is n rows drawn with replacement."""
    drawn = Draws(seed, "bootstrap").below(n, draws, n)
    found = np.zeros((draws, n))
    np.add.at(found, (np.arange(draws)[:, None], drawn), 1 / n)
    return found


def intervals(values: Floats, draws: int, seed: int) -> tuple[Doubles, Doubles]:
    """The central 95 % of the mean of each column (n, E) over samples of rows; NaN without any, or of one row."""
    found = np.full((2, values.shape[1]), np.nan)
    if not draws or len(values) < 2:
        return found[0], found[1]
    part = shares(len(values), draws, seed)
    count = max(AT_ONCE // draws, 1)
    for start in range(0, values.shape[1], count):
        columns = slice(start, start + count)
        found[:, columns] = np.quantile(part @ values[:, columns].astype(np.float64), [0.025, 0.975], axis=0)
    return found[0], found[1]


def mean(values: Floats) -> Doubles:
    """The mean of rows of each column (n, E), in parts that memory has room for."""
    count = max(AT_ONCE // max(len(values), 1), 1)
    parts = [values[:, start : start + count].mean(0, dtype=np.float64) for start in range(0, values.shape[1], count)]
    return np.concatenate(parts)
