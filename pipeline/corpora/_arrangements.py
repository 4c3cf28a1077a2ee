"""Which relations two objects on a grid can have, as facts on them and on others allow: what rooms_grid answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pipeline.utils.draws import Numbers

Consistent = npt.NDArray[np.bool_]


def consistent(
    steps: Numbers,
    thirds: Numbers | None,
    grid: int,
    first: Numbers,
    last: Numbers,
    walls: tuple[Numbers, Consistent] | None = None,
) -> Consistent:
    """Solve scenes exactly: which of the nine relations an object may have to another.

    Facts on directions and zones bound differences of one coordinate each. So both coordinates are solved apart. An
    object at a wall is at an end of one of them: all such choices are tried.

    Args:
        steps: Signs of where each object is from the one before, (N, n - 1, 2).
        thirds: The third of the room in which an object is, -1, 0 or 1, (N, n, 2); None: it is not told.
        grid: Cells on a side of the room.
        first: Number of the object from which the other is seen, (N,).
        last: Number of the other one, (N,).
        walls: Numbers of objects, (N, w), and whether each touches a wall, (N, w); None: it is not told.

    Returns:
        For each scene and relation whether some arrangement of the objects fits the facts and has it, (N, 9).
    """
    count, n = len(steps), steps.shape[1] + 1
    told, touches = (np.zeros((count, 0), np.int64), np.zeros((count, 0), bool)) if walls is None else walls
    low, high = np.zeros((count, n, 2), np.int64), np.full((count, n, 2), grid - 1)
    if thirds is not None:
        # Third t begins with the first cell c of which 3 c // grid is t.
        low, high = (-(-(thirds + 1 + more) * grid // 3) - more for more in (0, 1))
    inside = np.zeros((count, n, 1), np.int64)
    np.put_along_axis(inside[:, :, 0], told, ~touches, 1)
    low, high = np.maximum(low, inside), np.minimum(high, grid - 1 - inside)

    def signs(axis: int, ends: Iterable[int | None]) -> Consistent:
        """The signs of a coordinate, (N, 3), where objects of `told` are at these ends of it, or anywhere."""
        lowest, highest = low[:, :, axis].copy(), high[:, :, axis].copy()
        for number, end in zip(told.T, ends):
            if end is not None:
                rows = np.arange(count)
                lowest[rows, number] = np.maximum(lowest[rows, number], end)
                highest[rows, number] = np.minimum(highest[rows, number], end)
        return _signs(steps[:, :, axis], lowest, highest, first, last)

    sides = list(itertools.product((False, True), repeat=told.shape[1]))  # which of them are at an end of a coordinate
    found = [
        {
            side: np.any(
                [signs(axis, ends) for ends in itertools.product(*((0, grid - 1) if at else (None,) for at in side))], 0
            )
            for side in sides
        }
        for axis in range(2)
    ]
    allowed = np.zeros((count, 3, 3), bool)
    for one, other in itertools.product(sides, repeat=2):
        fits = (np.array(one, bool) | np.array(other, bool) | ~touches).all(1)
        allowed |= fits[:, None, None] & found[0][one][:, :, None] & found[1][other][:, None, :]
    return allowed.reshape(count, 9)


def _signs(step: Numbers, low: Numbers, high: Numbers, first: Numbers, last: Numbers) -> Consistent:
    """Whether an object's coordinate can be below, at and above another's, (N, 3); nowhere where nothing fits.

    By shortest paths between objects: every whole number between the tightest bounds is taken by some solution.

    Args:
        step: Signs of where each object is from the one before, (N, n - 1).
        low: The least coordinate of each object, (N, n), and `high`, the largest.
        first: Number of the object from which the other is seen, (N,), and `last`, that of the other.
    """
    count, n = low.shape
    # bound[:, i, j] is the most by which coordinate j is above coordinate i; the last row is coordinate 0.
    most = int(high.max(initial=0))
    bound = np.full((count, n + 1, n + 1), most)
    bound[:, range(n + 1), range(n + 1)] = 0
    bound[:, :n, n], bound[:, n, :n] = -low, high
    before, after = np.arange(n - 1), np.arange(1, n)
    bound[:, before, after] = np.where(step > 0, most, np.where(step < 0, -1, 0))
    bound[:, after, before] = np.where(step > 0, -1, np.where(step < 0, most, 0))
    for middle in range(n + 1):
        np.minimum(bound, bound[:, :, [middle]] + bound[:, [middle], :], out=bound)
    rows = np.arange(count)
    below, above = -bound[rows, last, first], bound[rows, first, last]
    fits = np.all(bound[:, range(n + 1), range(n + 1)] >= 0, axis=1)
    return fits[:, None] & np.stack([below < 0, (below <= 0) & (above >= 0), above > 0], 1)
