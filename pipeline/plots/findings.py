"""What is to be seen in a figure, in a sentence from its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.plots.axes import Numbers
from pipeline.runs.metrics import Series
from pipeline.utils.format import amount


def of_grids(
    values: Numbers, steps: Sequence[int], panels: Sequence[str], rows: Sequence[str], columns: Sequence[str],
    axes: tuple[str, str],
) -> str:  # fmt: skip
    """Where a heat map is largest at its last step, panel by panel, and since when it is half as large there.

    Args:
        values: By step, panel, row and column, as `Grids` has them.
        axes: What rows and columns are.
    """
    sentences = []
    for p, panel in enumerate(panels):
        last = np.abs(values[-1, p])
        if not np.isfinite(last).any() or not np.nanmax(last):
            continue
        row, column = divmod(int(np.nanargmax(last)), last.shape[1])
        course = values[:, p, row, column]
        place = f"{axes[0]} {rows[row]}, {_short(axes[1])} {columns[column]}"
        words = f"{panel + ': largest' if panel else 'largest'} at {place} ({amount(float(course[-1]))}"
        early = np.flatnonzero(np.abs(course) >= np.abs(course[-1]) / 2)
        if len(course) > 1 and early[0] > 0 and np.isfinite(course[0]):
            words += f"; {amount(float(course[0]))} at step {steps[0]:,}, at least half of it from step "
            words += f"{steps[_since(course)]:,} on"
        sentences.append(f"{words})")
    if not sentences or len(sentences) > 4:
        return ""
    return f"At step {steps[-1]:,} {'; '.join(sentences)}."


def _since(course: Numbers) -> int:
    """From which place on all values are at least half of the last one."""
    small = np.flatnonzero(~(np.abs(course) >= np.abs(course[-1]) / 2))
    return int(small[-1]) + 1 if len(small) else 0


def _short(axis: str) -> str:
    return axis.partition(",")[0]


def of_losses(losses: Mapping[str, Series], keys: Sequence[int]) -> str:
    """Which of restricted and held-out loss falls first, and what the excluded loss comes to."""
    restricted, held_out, excluded = (losses[name] for name in ("restricted", "held-out", "excluded"))
    fell = {name: _halved(losses[name]) for name in ("restricted", "held-out")}
    last = restricted.steps[-1]
    words = f"At step {last:,}, {_count(keys)} alone reach a loss of {amount(restricted.values[-1])}, all of the model "
    words += f"{amount(held_out.values[-1])} on held-out pairs, and everything else {amount(excluded.values[-1])}."
    first, second = fell["restricted"], fell["held-out"]
    if first is not None and second is not None:
        order = "before" if first < second else "after" if first > second else "together with"
        words += f" Restricted is half of what it was by step {first:,}, {order} the held-out loss (step {second:,})."
    return words


def _count(keys: Sequence[int]) -> str:
    return f"{len(keys)} key frequenc{'y' if len(keys) == 1 else 'ies'}"


def _halved(series: Series) -> int | None:
    """The step from which on a series is below half of its first value."""
    above = [i for i, value in enumerate(series.values) if value >= series.values[0] / 2]
    return series.steps[above[-1] + 1] if above[-1] + 1 < len(series.steps) else None


def of_edges(edges: Sequence[tuple[str, str, float]]) -> str:
    """The strongest edges, and how many carry half of all that edges do."""
    ordered = sorted(edges, key=lambda edge: -abs(edge[2]))
    sizes = np.cumsum([abs(score) for *_, score in ordered])
    if not len(sizes) or not sizes[-1]:
        return ""
    half = int(np.searchsorted(sizes, sizes[-1] / 2)) + 1
    strongest = ", ".join(f"`{writer}` to `{reader}`" for writer, reader, _ in ordered[:3])
    return f"Strongest: {strongest}. {half:,} of {len(ordered):,} edges carry half of the sum of all scores."
