"""What a picture of a report is: a figure, what it says to those who do not see it, and its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    """A figure for the report; `alt` says what it is, and `finding`, a sentence, what is to be seen in this one.

    `grids`, where it has entries, are the `plots.heatmap.Grids` of all steps, for a figure that moves, with `axes`
    naming rows and columns; `signed` values are in [-1, 1], others in [0, 1].
    """

    figure: Figure
    alt: str
    caption: str
    grids: Mapping[str, Any] = field(default_factory=dict)
    axes: tuple[str, str] = ("", "")
    signed: bool = False
    finding: str = ""
