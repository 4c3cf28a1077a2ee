"""The formats in which figures are written, by the name that `--format` takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipeline.utils.errors import RecipeError
from pipeline.utils.suggest import did_you_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
OPTION = "--format"
METAVAR = "NAME[,NAME]"


def read_formats(text: str) -> tuple[str, ...]:
    """The formats that a list with commas names, each once.

    Raises:
        RecipeError: at a name that is none.
    """
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise RecipeError(OPTION, f"{name!r} is no format of figures{did_you_mean(name, FORMATS)}")
    return names


def pictures(figure: Figure, formats: Iterable[str]) -> dict[str, bytes]:
    """A figure as the contents of files, by format."""
    from pipeline.plots import style

    writers = {"png": style.png, "svg": style.svg, "pdf": style.pdf}
    return {name: writers[name](figure) for name in formats}
