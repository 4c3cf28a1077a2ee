"""Figures of the analysis `representations`: losses and shares over steps, and what each representation has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.plots.axes import SIZE
from pipeline.plots.base import Drawing
from pipeline.plots.measures import Content, Curves, series
from pipeline.plots.style import GREY, HUES, STYLE, Mark, every_nth, panels
from pipeline.runs.metrics import Series

MOST_KEYS = 6  # representations with a curve of their own
PARTS = ("embedding", "unembedding", "neurons", "neurons ab")
Shares = dict[str, dict[str, float]]  # measure -> representation -> share


def shares(table: pa.Table) -> Shares:
    """What representations explain at one step, with `neurons`, all three spans together, and logits as a share."""
    found: Shares = {}
    columns = (table[name].to_pylist() for name in ("measure", "representation", "value"))
    for measure, name, value in zip(*columns):
        found.setdefault(measure, {})[name] = value
    spans = [found[f"neurons {part}"] for part in ("a", "b", "ab")]
    found["neurons"] = {name: sum(span[name] for span in spans) for name in spans[0]}
    found["logits"] = {name: cosine**2 for name, cosine in found["logits"].items()}
    return found


def explained(table: pa.Table) -> dict[str, float]:
    """The share that key representations explain of each part, at one step; and of the logits' power."""
    found = shares(table)
    return {part: sum(found[part][name] for name in found.get("key", {})) for part in (*PARTS, "logits")}


@rc_context(STYLE)
def draw_representations(table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    steps = sorted(set(table["step"].to_pylist()))
    last = table.filter(pc.field("step") == steps[-1])
    keys = list(shares(last).get("key", {}))
    words = ", ".join(keys) or "none"
    found: dict[str, Drawing] = {}
    if len(steps) > 1:
        at = {step: table.filter(pc.field("step") == step) for step in steps}
        of_keys = pa.Table.from_pylist([{"step": step, **explained(one)} for step, one in at.items()])
        names = ("train", "held-out", "restricted", "excluded")
        losses = {name: series(table.filter(pc.field("measure") == f"{name} loss"), "value") for name in names}
        contents = [Content("loss, in nats", losses, log=True)]
        if keys:
            of_parts = {part: series(of_keys, part) for part in PARTS}
            contents.append(Content("share that key representations explain", of_parts))
            curves = {name: _logits(table, name) for name in keys}
            strongest = sorted(keys, key=lambda name: -curves[name].values[-1])[:MOST_KEYS]
            contents.append(
                Content("cosine of logits and character", {name: curves[name] for name in keys if name in strongest})
            )
        figure = Curves(contents, marks, [2.0, 1.4, 1.4][: len(contents)]).figure
        caption = (
            "Restricted: of the neurons their mean and key rho(ab) alone, on all pairs. Excluded: all but these, on "
            f"trained pairs. Key representations, those of the last step: {words}."
        )
        found[""] = Drawing(figure, "Losses and the shares that key representations explain, over steps", caption)
    caption = f"Shares by irreducible representation at step {steps[-1]:,}; key representations in colour: {words}."
    found["spectrum"] = Drawing(spectrum(last), "What each irreducible representation explains", caption, table=last)
    return found


def _logits(table: pa.Table, name: str) -> Series:
    return series(table.filter((pc.field("measure") == "logits") & (pc.field("representation") == name)), "value")


@rc_context(STYLE)
def spectrum(table: pa.Table) -> Figure:
    """The share that each representation explains of embedding, unembedding, neurons and logits, at one step."""
    found = shares(table)
    titles = {"embedding": "power of the embedding", "unembedding": "power of the unembedding"}
    titles |= {"neurons ab": "variance of the neurons, along rho(ab)", "logits": "power of the logits"}
    figure, rows = panels([0.85] * len(titles), 0.15, top=0.25, gap=0.36)
    names = list(found["embedding"])
    for axes, (measure, title) in zip(rows, titles.items()):
        values = [found[measure].get(name, 0.0) for name in names]
        hues = [HUES[0] if name in found.get("key", {}) else "#bbbbbb" for name in names]
        axes.bar(range(len(names)), values, width=0.7, color=hues)
        axes.set_axisbelow(True)
        axes.grid(False, axis="x")
        axes.set_title(title, loc="left", fontsize=SIZE)
        every = every_nth(len(names), 24)
        axes.set_xticks(range(0, len(names), every), names[::every], fontsize=SIZE - 1)
        axes.tick_params(labelbottom=axes is rows[-1])
    rows[-1].set_xlabel("irreducible representation, by its dimension")
    return figure


@rc_context(STYLE)
def stacked(bars: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Panel -> bar -> representation -> share: bars in a row, their parts side by side, named where they fit."""
    figure, rows = panels([0.3 + 0.32 * len(panel) for panel in bars.values()], 0.3, top=0.3, gap=0.45, left=0.8)
    names = sorted({name for panel in bars.values() for bar in panel.values() for name in bar}, key=_in_order)
    for axes, (title, panel) in zip(rows, bars.items()):
        for row, bar in enumerate(panel.values()):
            start = 0.0
            for name in sorted(bar, key=_in_order):
                hue = [*HUES, GREY][names.index(name) % (len(HUES) + 1)]
                axes.barh(row, bar[name], left=start, height=0.7, color=hue, edgecolor="white", linewidth=0.5)
                if bar[name] > 0.03:
                    axes.text(
                        start + bar[name] / 2, row, name, ha="center", va="center", color="white", fontsize=SIZE - 1
                    )
                start += bar[name]
        axes.set_yticks(range(len(panel)), list(panel))
        axes.invert_yaxis()
        axes.set_axisbelow(True)
        axes.set_xlim(0, 1)
        axes.grid(False, axis="y")
        axes.set_title(title, loc="left", fontsize=SIZE)
        axes.tick_params(labelbottom=axes is rows[-1])
    rows[-1].set_xlabel("share of the logits' power")
    return figure


def _in_order(name: str) -> tuple[int, int, str]:
    """By dimension, then by letters: 2b before 2aa before 10a."""
    letters = name.lstrip("0123456789")
    return int(name[: -len(letters)]), len(letters), letters
