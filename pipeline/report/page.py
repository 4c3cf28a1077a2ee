"""Pages as a list of parts, written as Markdown beside its figures and as one self-contained HTML file.

Text may hold `code`, **bold** and backslashes before signs that are to be read as they are; `plain` adds those.
Whatever else it holds, no page has a tag, a link or a script of it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import jinja2
import matplotlib.figure
import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from pipeline.plots import style as drawing
from pipeline.plots.base import Frames
from pipeline.plots.formats import pictures
from pipeline.report import player as moving
from pipeline.report.curve_values import CurveValues
from pipeline.report.sheets import Sheet
from pipeline.runs.layout import FIGURES
from pipeline.utils.drafts import check_place, write_inside
from pipeline.utils.errors import RecipeError
from pipeline.utils.files import write_text
from pipeline.utils.inside import opened
from pipeline.utils.markdown import REPLACEMENT, code, harmless, inline, plain, printable

__all__ = [
    "Answers",
    "Code",
    "Figure",
    "Heading",
    "Moving",
    "MovingGraph",
    "Paragraph",
    "Part",
    "Table",
    "as_html",
    "as_markdown",
    "code",
    "narrow_svgs",
    "plain",
    "write_page",
]

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # labels in drawings may hold some
PAGES = ("report.md", "report.html")
NAME = re.compile(r"[\w.+-]{1,100}", re.ASCII)  # of a figure


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str
    note: bool = False  # in small print


@dataclass(frozen=True)
class Table:
    """`align` has a letter for each column, l or r; the first cell of a row names it.

    `links` has for each row where its last cell leads, quoted as in a URL, or nothing. `folded`: the summary behind
    which it is folded away.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str
    links: Sequence[str] = ()
    folded: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture in the figures folder, by its name without ending; `alt` is for those who cannot see it.

    `values` are those of its curves, which a page in HTML shows under a pointer.
    """

    name: str
    alt: str
    caption: str
    values: CurveValues | None = None


@dataclass(frozen=True)
class Code:
    text: str
    language: str = ""
    folded: str = ""  # the summary behind which it is folded away


@dataclass(frozen=True)
class Moving:
    """Heat maps that a reader can take through the steps; only a page in HTML has them.

    `values` are (steps, panels, rows, columns), in [0, 1], or in [-1, 1] where `signed`; NaN where there is none.
    """

    values: npt.NDArray[np.float64]
    steps: Sequence[int]
    panels: Sequence[str]
    rows: Sequence[str]
    columns: Sequence[str]
    axes: tuple[str, str]
    signed: bool = False


@dataclass(frozen=True)
class MovingGraph:
    """A circuit that a reader can take through the steps; only a page in HTML has it."""

    frames: Frames


@dataclass(frozen=True)
class Answers:
    """What a model answers a few prompts, step by step, for a reader to go through; only a page in HTML has them.

    `prompts` have the prompt, where it stands and the right answer; `answers` are by step and prompt: the likeliest
    one, its probability, and whether it is right.
    """

    steps: Sequence[int]
    prompts: Sequence[tuple[str, str, str]]
    answers: Sequence[Sequence[tuple[str, float, bool]]]


Part = Heading | Paragraph | Table | Figure | Moving | MovingGraph | Answers | Code


def check_places(folder: Path) -> None:
    """Check that pages and figures can be put into a folder; what takes hours before a report asks first.

    Raises:
        RecipeError: when something else stands in their place.
    """
    with opened(folder, FIGURES, make=True):
        pass
    for name in PAGES:
        check_place(folder, name)


def write_page(
    folder: Path,
    title: str,
    parts: Sequence[Part],
    figures: Mapping[str, matplotlib.figure.Figure],
    sheets: Mapping[str, Sheet] = MappingProxyType({}),
    formats: Collection[str] = ("svg",),
    broad: bool = False,
    narrow: Mapping[str, matplotlib.figure.Figure] = MappingProxyType({}),
) -> None:
    """report.md, report.html and figures/ of a folder: all is drawn before anything is written, the pages last.

    Beside a figure, as PNG and in `formats`, lies the table that it was drawn from, where `sheets` has it. `broad`
    leaves room for wide tables; `narrow` has the figures as a narrow page shows them, those that differ there.
    """
    for name in figures:
        if not NAME.fullmatch(name):
            raise RecipeError(str(folder), f"a figure would be called {name!r}, which is no name of a file here")
    drawn = {name: pictures(figure, {"png", "svg", *formats}) for name, figure in figures.items()}
    svgs = {name: each["svg"].decode() for name, each in drawn.items()}
    texts = as_markdown(parts), as_html(title, parts, svgs, broad, narrow_svgs(narrow))
    check_places(folder)
    for name, contents in drawn.items():
        for ending in {"png", *formats}:
            write_inside(folder, f"{FIGURES}/{name}.{ending}", contents[ending])
        if name in sheets:
            write_inside(folder, f"{FIGURES}/{name}.csv", sheets[name].as_csv())
    for name, text in zip(PAGES, texts):
        write_text(folder / name, text)


def narrow_svgs(figures: Mapping[str, matplotlib.figure.Figure]) -> dict[str, str]:
    """Those that were drawn for a narrow page, as SVG; others take the width that they need on any page."""
    found = {}
    for name, figure in figures.items():
        if figure.get_figwidth() < drawing.WIDE:
            drawing.wrap_titles(figure)
            found[name] = drawing.svg(figure).decode()
    return found


def as_markdown(parts: Sequence[Part]) -> str:
    return "\n\n".join(_markdown(part) for part in parts if not isinstance(part, (Moving, MovingGraph, Answers))) + "\n"


def _markdown(part: Heading | Paragraph | Table | Figure | Code) -> str:
    if isinstance(part, Heading):
        return f"{'#' * part.level} {harmless(part.text)}"
    if isinstance(part, Table):
        rules = ["---:" if letter == "r" else "---" for letter in part.align]
        # A table is cut into cells before code is recognized, so a bar in code needs its backslash too.
        lines = [
            [re.sub(r"(?<!\\)\|", r"\\|", harmless(cell)) for cell in line] for line in (part.header, rules, *part.rows)
        ]
        for line, link in zip(lines[2:], part.links):
            line[-1] = f"[{line[-1]}]({link})" if link else line[-1]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"<details><summary>{part.folded}</summary>\n\n{text}\n\n</details>" if part.folded else text
    if isinstance(part, Figure):
        picture = f"![{plain(part.alt)}](figures/{part.name}.png)"
        return f"{picture}\n\n{harmless(part.caption)}" if part.caption else picture
    if isinstance(part, Code):
        text = _clean(part.text).rstrip()
        fence = "`" * max(3, *(len(ticks) + 1 for ticks in re.findall("`+", text)), 3)
        block = f"{fence}{part.language}\n{text}\n{fence}"
        return f"<details><summary>{part.folded}</summary>\n\n{block}\n\n</details>" if part.folded else block
    return harmless(part.text)


def _clean(text: str) -> str:
    """A text of several lines without characters that control what shows it."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else REPLACEMENT for sign in text)


def as_html(
    title: str,
    parts: Sequence[Part],
    drawings: Mapping[str, str],
    broad: bool = False,
    narrow: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The page with its figures inside, from their SVG by name, and from those that a narrow page shows instead."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["inline"] = lambda text: Markup(inline(text))
    page = environment.get_template("page.html.j2").render(
        title=printable(title),
        broad=broad,
        parts=[dataclasses.replace(part, text=_clean(part.text)) if isinstance(part, Code) else part for part in parts],
        moves=any(isinstance(part, (Moving, MovingGraph, Answers)) for part in parts),
        points=any(isinstance(part, Figure) and part.values for part in parts),
        values=lambda part: part.values.as_json(),
        answers=lambda part: moving.answers(part.steps, part.prompts, part.answers),
        graph=lambda part: moving.graph(part.frames),
        drawing=lambda part, number: _inline_svg(str(number), part.alt, drawings[part.name]),
        narrow=lambda part, number: (
            _inline_svg(f"{number}n", part.alt, narrow[part.name]) if part.name in narrow else ""
        ),
        moving=lambda part: moving.as_html(
            part.values, part.steps, part.panels, part.rows, part.columns, part.axes, part.signed
        ),
    )
    return CONTROLS.sub(REPLACEMENT, page)


def _inline_svg(number: str, alt: str, text: str) -> str:
    """A drawing as part of the page: without its XML header, with an alternative text, and with ids of its own."""
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="', f'id="figure{number}-', text)
    text = re.sub(r"(href=\"#|url\(#)", rf"\1figure{number}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(printable(alt))}" ', 1)
