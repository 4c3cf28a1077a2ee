"""What a picture of a report is: a figure, what it says to those who do not see it, and its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure


class Frames(NamedTuple):
    """A circuit at several steps, for a graph that moves: nodes keep their places, and edges have a score at each step.

    `nodes` are (name, x, y) in a drawing of `size`, y downwards; `edges` (writer, reader, how far from the middle of
    the reader it arrives). `scores` are by step and edge, in [-1, 1], and 0 where an edge is not among the strongest.
    """

    size: tuple[float, float]
    nodes: Sequence[tuple[str, float, float]]
    edges: Sequence[tuple[str, str, float]]
    steps: Sequence[int]
    scores: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Drawing:
    """A figure for the report; `alt` says what it is, and `finding`, a sentence, what is to be seen in this one.

    `grids`, where it has entries, are the `plots.heatmap.Grids` of all steps, for a figure that moves, with `axes`
    naming rows and columns; `signed` values are in [-1, 1], others in [0, 1]. `frames` is a graph that moves.
    `table` has the rows that the figure shows, where those are not all that it was to be drawn from.
    """

    figure: Figure
    alt: str
    caption: str
    grids: Mapping[str, Any] = field(default_factory=dict)
    axes: tuple[str, str] = ("", "")
    signed: bool = False
    finding: str = ""
    frames: Frames | None = None
    table: pa.Table | None = None
