"""What moves: a slider over training steps and a button that plays them, in a page that needs no network.

Heat maps, circuits, and tables of answers.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.plots.base import Frames

CELL, GAP, FONT, WIDE = 28, 16, 11, 700  # in the units of the drawing: a cell's height, and how wide it is to be
INCH = 100  # in those of a circuit


def as_html(
    values: npt.NDArray[np.float64], steps: Sequence[int], panels: Sequence[str], rows: Sequence[str],
    columns: Sequence[str], axes: tuple[str, str], signed: bool,
) -> str:  # fmt: skip
    """The figure with its data inside; it begins with the last step. Values are (steps, panels, rows, columns)."""
    hundredths = np.round(100 * values.reshape(len(steps), -1)).clip(-100 if signed else 0, 100)
    frames = [[None if np.isnan(value) else int(value) for value in frame] for frame in hundredths]
    data = json.dumps({"steps": [*steps], "values": frames, "signed": signed}, separators=(",", ":"))
    scale = f'<span class="scale">{"-1" if signed else "0"}<i{" class=signed" if signed else ""}></i>1</span>'
    return _figure("moving", len(steps), _cells(panels, rows, columns, axes), data, scale)


def graph(frames: Frames) -> str:
    """A circuit whose edges grow and go; it begins with the last step. Scores are kept as whole hundredths."""
    scores = [[round(100 * score) for score in row] for row in frames.scores]
    data = json.dumps({"steps": [*frames.steps], "scores": scores}, separators=(",", ":"))
    places = {name: (INCH * x, INCH * y) for name, x, y in frames.nodes}
    parts = list[str]()
    for writer, reader, port in frames.edges:
        (x0, y0), (x1, y1) = places[writer], places[reader.partition("<")[0]]
        x1, y0, y1 = x1 + INCH * port, y0 - 12, y1 + 12
        bend = 0.08 * (x1 - x0), 0.08 * (y1 - y0)  # to the side on which the still figure bends them
        middle = (x0 + x1) / 2 - abs(bend[1]), (y0 + y1) / 2 - abs(bend[0])
        curve = f"M{x0:g} {y0:g}Q{middle[0]:.4g} {middle[1]:.4g} {x1:.4g} {y1:g}"
        at = html.escape(f"{writer} to {reader}", quote=True)
        parts.append(f'<path d="{curve}" data-at="{at}" fill="none"><title></title></path>')
    for name, (x, y) in places.items():
        wide = 56 if len(name) > 4 else 42
        box = f'<rect x="{x - wide / 2:g}" y="{y - 12:g}" width="{wide}" height="24" rx="6" class="node"/>'
        parts.append(box + _svg(name, x, y + 4, "middle"))
    width, height = (INCH * length for length in frames.size)
    drawing = f'<svg viewBox="0 0 {width:g} {height:g}" font-size="12" fill="currentColor">{"".join(parts)}</svg>'
    return _figure("graph", len(frames.steps), f'<div class="wide">{drawing}</div>', data)


def answers(
    steps: Sequence[int], prompts: Sequence[tuple[str, str, str]], found: Sequence[Sequence[tuple[str, float, bool]]]
) -> str:
    """A row for each prompt, with what is answered at the step that the slider is at; it begins with the last."""
    cells = [[[text, round(p, 4), int(right)] for text, p, right in row] for row in found]
    data = json.dumps({"steps": [*steps], "answers": cells}, separators=(",", ":")).replace("<", "\\u003c")
    rows = "".join(
        f'<tr><th scope="row"><code>{html.escape(prompt)}</code></th><td>{html.escape(standing)}</td>'
        f"<td>{html.escape(right)}</td><td></td><td><meter min=0 max=1></meter> <span></span></td></tr>"
        for prompt, standing, right in prompts
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("prompt", "stands", "right", "answer", "probability"))
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return _figure("answers", len(steps), table, data)


def _figure(kind: str, steps: int, content: str, data: str, beside: str = "") -> str:
    return (
        f'<figure class="{kind}"><div class="bar"><button type="button">play</button>'
        f'<input type="range" min="0" max="{steps - 1}" value="{steps - 1}" aria-label="training step">'
        f'<output></output>{beside}</div>{content}<script type="application/json">{data}</script></figure>'
    )


def _cells(panels: Sequence[str], rows: Sequence[str], columns: Sequence[str], axes: tuple[str, str]) -> str:
    """The panels side by side, rows from bottom to top, in the order of the values."""
    left = 8 + FONT * 0.62 * max(map(len, rows)) + 2 * FONT
    longest = FONT * 0.62 * max(map(len, columns))
    room = ((WIDE - left) / len(panels) - GAP) / len(columns)
    cell = min(max(room, CELL), 4 * CELL)
    upright = longest > cell - 2
    panel_width = max(cell * len(columns), FONT * 0.62 * max(map(len, [*panels, axes[1]])))
    top, bottom = FONT + 8, (longest if upright else FONT) + FONT + 12
    width = left + len(panels) * (panel_width + GAP)
    height = top + CELL * len(rows) + bottom
    names = _svg(axes[0], FONT - 4, top + CELL * len(rows) / 2, "middle", -90), _svg(axes[1], left, height - 4)
    parts = [*names]
    for p, panel in enumerate(panels):
        x = left + p * (panel_width + GAP)
        parts.append(_svg(panel, x, FONT))
        for r, row in enumerate(rows):
            y = top + CELL * (len(rows) - 1 - r)
            if p == 0:
                parts.append(_svg(row, x - 5, y + CELL / 2 + 4, "end"))
            for c, column in enumerate(columns):
                at = html.escape(f"{panel} {axes[0]} {row}, {axes[1]} {column}".strip(), quote=True)
                place = f'x="{x + cell * c:g}" y="{y:g}" width="{cell:g}" height="{CELL}"'
                parts.append(f'<rect {place} data-at="{at}"><title></title></rect>')
        for c, column in enumerate(columns):
            middle, below = x + cell * (c + 0.5), top + CELL * len(rows) + FONT + 2
            parts.append(
                _svg(column, middle, below - FONT + 4, "end", -90) if upright else _svg(column, middle, below, "middle")
            )
    size = f'viewBox="0 0 {width:g} {height:g}" style="max-width:{width:g}px;min-width:min(28rem,{width:g}px)"'
    return f'<div class="wide"><svg {size} font-size="{FONT}" fill="currentColor">{"".join(parts)}</svg></div>'


def _svg(text: str, x: float, y: float, anchor: str = "start", turn: int = 0) -> str:
    if turn:
        place = f'transform="translate({x + 4:g} {y:g}) rotate({turn})"'
    else:
        place = f'x="{x:g}" y="{y:g}"'
    return f'<text {place} text-anchor="{anchor}">{html.escape(text)}</text>'
