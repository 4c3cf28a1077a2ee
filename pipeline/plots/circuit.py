"""Pictures of circuits: the scores of nodes over steps, the graph of a circuit, and how faithful it is by its size."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import FuncFormatter

from pipeline.plots.axes import SIZE
from pipeline.plots.base import Drawing, Frames
from pipeline.plots.findings import of_edges
from pipeline.plots.heatmap import Grids, drawn_grids
from pipeline.plots.measures import Content, Curves, series
from pipeline.plots.style import GREY, HUES, INK, STYLE, WIDE, Mark, label_margin, panels

MOST_EDGES = 40
PORTS = {"q": -1, "k": 0, "v": 1}  # where on a head's lower side an edge arrives


class Edge(NamedTuple):
    writer: str
    reader: str
    score: float


def draw_attribution(table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    last = pc.max(table["step"]).as_py()
    found = draw_nodes(table, "expected change of the metric where a node alone is that of the corrupted run", marks)
    edges = _edges(table, last)
    if edges:
        shown = strongest(edges, MOST_EDGES)
        caption = (
            f"The {len(shown)} edges that matter most on a way to the logits, of {len(edges):,}, at step {last:,}. "
            "Blue: corrupting it takes from the metric; orange: adds to it. At a head q, k and v arrive left, middle "
            "and right."
        )
        if (unsure := _unsure(table, last)) is not None:
            dashed = sum((edge.writer, edge.reader) in unsure for edge in shown)
            caption += f" Dashed: {dashed}, whose interval over pairs holds 0."
        alt, graph = "the circuit of the last step as a graph", circuit_graph(shown, unsure or set())
        finding = of_edges([(edge.writer, edge.reader, edge.score) for edge in edges])
        rows = pa.Table.from_pylist([{"step": last, **edge._asdict()} for edge in shown])
        found["circuit"] = Drawing(graph, alt, caption, finding=finding, frames=circuit_frames(table), table=rows)
    return found


def draw_nodes(table: pa.Table, what: str, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    """Heads and MLPs by layer, each step's scores over the largest of all steps."""
    nodes = table.filter(pc.field("reader") == "")
    steps = sorted(set(nodes["step"].to_pylist()))
    names = [re.fullmatch(r"a(\d+)\.h(\d+)|m(\d+)", name) for name in nodes["writer"].to_pylist()]
    layers = 1 + max(int(name[1] or name[3]) for name in names if name)
    heads = 1 + max(int(name[2]) for name in names if name and name[2])
    values = np.full((len(steps), 1, layers, heads + 1), np.nan)
    for name, step, score in zip(names, nodes["step"].to_pylist(), nodes["score"].to_pylist()):
        if name:
            place = (int(name[1]), int(name[2])) if name[1] else (int(name[3]), heads)
            values[steps.index(step), 0][place] = score
    most = max(float(np.nanmax(np.abs(values))), 1e-300)
    found = Grids(values / most, steps, [""], [str(i) for i in range(layers)], [*map(str, range(heads)), "m"])
    ending = f", over the largest, {most:.3g}"
    drawing = drawn_grids(found, what, ("layer", "head, or m: MLP"), marks, signed=True, ending=ending)
    return {"": dataclasses.replace(drawing, table=nodes)}


def _edges(table: pa.Table, step: int) -> list[Edge]:
    chosen = table.filter((pc.field("reader") != "") & (pc.field("step") == step))
    return [Edge(*row) for row in zip(*(chosen[name].to_pylist() for name in Edge._fields))]


def _unsure(table: pa.Table, step: int) -> set[tuple[str, str]] | None:
    """The edges of a step whose sign is not known, by their intervals; None of a table that has none."""
    if "low" not in table.column_names:
        return None
    chosen = table.filter((pc.field("reader") != "") & (pc.field("step") == step) & pc.field("low").is_valid())
    rows = chosen.to_pylist()
    return {(row["writer"], row["reader"]) for row in rows if row["low"] <= 0 <= row["high"]} if rows else None


def strongest(edges: Sequence[Edge], most: int) -> list[Edge]:
    """The edges of the highest |score| whose nodes lie between the input and the logits along such edges.

    They are taken in falling order until so many are on a way; an edge that no way leads to, or away from, is left out.
    """
    ordered = sorted(edges, key=lambda edge: (-abs(edge.score), edge.writer, edge.reader))
    low, high = 0, len(ordered)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(on_a_way(ordered[:middle])) <= most else (low, middle - 1)
    return on_a_way(ordered[:low])


def on_a_way(edges: Sequence[Edge]) -> list[Edge]:
    found = list(edges)
    while True:
        entered = {"input", *(edge.reader.partition("<")[0] for edge in found)}
        left = {"logits", *(edge.writer for edge in found)}
        rest = [edge for edge in found if edge.writer in entered and edge.reader.partition("<")[0] in left]
        if len(rest) == len(found):
            return rest
        found = rest


@rc_context(STYLE)
def circuit_graph(edges: Sequence[Edge], dashed: Set[tuple[str, str]] = frozenset()) -> Figure:
    """A circuit as a graph: the input at the bottom, blocks above each other, edges as wide as their scores."""
    places, width, height = _places(edges)
    figure = Figure(figsize=(WIDE, height))
    axes = figure.add_axes((0.15 / WIDE, 0, width / WIDE, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    most = max((abs(edge.score) for edge in edges), default=1.0)
    for edge in sorted(edges, key=lambda edge: abs(edge.score)):
        _arrow(axes, edge, places, most, (edge.writer, edge.reader) in dashed)
    for node, (x, y) in places.items():
        wide = 0.5 if len(node) > 4 else 0.36
        box = FancyBboxPatch(
            (x - wide / 2, y - 0.1), wide, 0.2, boxstyle="round,pad=0.03,rounding_size=0.06", facecolor="white",
            edgecolor=INK, linewidth=0.8, zorder=4,
        )  # fmt: skip
        axes.add_patch(box)
        axes.text(x, y - 0.005, node, ha="center", va="center", zorder=5, fontsize=SIZE)
    return figure


def circuit_frames(table: pa.Table) -> Frames | None:
    """The strongest edges of every step over the strongest of all steps; None where there is but one step."""
    steps = sorted(set(table["step"].to_pylist()))
    found = {step: strongest(_edges(table, step), MOST_EDGES) for step in steps}
    edges = sorted({(edge.writer, edge.reader) for shown in found.values() for edge in shown})
    if len(steps) < 2 or not edges:
        return None
    places, width, height = _places([Edge(*ends, 0.0) for ends in edges])
    most = max(abs(edge.score) for shown in found.values() for edge in shown)
    scores = [{(edge.writer, edge.reader): edge.score / most for edge in shown} for shown in found.values()]
    nodes = [(name, x, height - y) for name, (x, y) in places.items()]
    ends = [(writer, reader, 0.12 * PORTS.get(reader.partition("<")[2][:1], 0)) for writer, reader in edges]
    return Frames((width, height), nodes, ends, steps, [[at.get(each, 0.0) for each in edges] for at in scores])


def _places(edges: Sequence[Edge]) -> tuple[dict[str, tuple[float, float]], float, float]:
    """Where the nodes of a circuit stand, blocks above each other, in a drawing of a width and a height."""
    nodes = {edge.writer for edge in edges} | {edge.reader.partition("<")[0] for edge in edges} | {"input", "logits"}
    levels: dict[tuple[int, int], list[str]] = {}
    for node in sorted(nodes):
        levels.setdefault(_level(node), []).append(node)
    row, width = 0.62, WIDE - 0.3
    places: dict[str, tuple[float, float]] = {}
    for i, level in enumerate(sorted(levels)):
        members = sorted(levels[level], key=_order)
        share = width / len(members)
        # Rows with few nodes lean to alternate sides, so that edges that skip a row do not run through a box.
        lean = (0.12 * width * (-1) ** i) if len(members) == 1 and 0 < i < len(levels) - 1 else 0.0
        for j, node in enumerate(members):
            places[node] = ((j + 0.5) * share + lean, 0.1 + row * (i + 0.5))
    return places, width, row * len(levels) + 0.2


def _level(node: str) -> tuple[int, int]:
    if node in ("input", "logits"):
        return (-1, 0) if node == "input" else (1 << 30, 0)
    return int(re.split(r"\D+", node)[1]), int(node[0] == "m")


def _order(node: str) -> int:
    return int(node.partition(".h")[2] or 0)


def _arrow(axes: Axes, edge: Edge, places: Mapping[str, tuple[float, float]], most: float, dashed: bool) -> None:
    name, _, part = edge.reader.partition("<")
    (x0, y0), (x1, y1) = places[edge.writer], places[name]
    strength = abs(edge.score) / most
    look: Any = {"arrowstyle": "-|>,head_length=3,head_width=1.6", "color": HUES[0] if edge.score < 0 else HUES[1]}
    bend = f"arc3,rad={0.08 if x1 >= x0 else -0.08}"
    ends = (x0, y0 + 0.13), (x1 + 0.12 * PORTS.get(part[:1], 0), y1 - 0.13)
    arrow = FancyArrowPatch(*ends, connectionstyle=bend, shrinkA=0, shrinkB=0, mutation_scale=1, **look)
    arrow.set(linestyle="--" if dashed else "-")
    arrow.set(linewidth=0.5 + 3 * strength, alpha=0.35 + 0.6 * strength, zorder=2 + strength)
    axes.add_patch(arrow)


@rc_context(STYLE)
def draw_faithfulness(table: pa.Table, target: float, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    last = pc.max(table["step"]).as_py()
    at_end = table.filter(pc.field("step") == last)
    found: dict[str, Drawing] = {}
    names = ("absent", "model_metric", "corrupted_metric", "cpr", "cmd", "smallest")
    absent, model, corrupted, cpr, cmd, smallest = (at_end[name][0].as_py() for name in names)
    caption = f"Step {last:,}. Metric of the model {model:.3g}, of the corrupted run {corrupted:.3g}. "
    if absent:
        caption += "The behaviour is absent: it does not stand out from 0, or from that of the corrupted run."
    else:
        edges = f"{smallest:,.0f} edges" if smallest else "none"
        caption += f"CPR {cpr:.3f}, CMD {cmd:.3f}; smallest circuit at {target:g}: {edges}."
        if "stable_edges" in at_end.column_names and (stable := at_end["stable_edges"][0].as_py()) is not None:
            caption += f" {len(stable.split()):,} of these are in 95 % of those found with pairs drawn anew."
    alt = "faithfulness over the share of edges in a circuit"
    found[""] = Drawing(faithfulness_curve(at_end, target), alt, caption, table=at_end)
    if len(set(table["step"].to_pylist())) > 1:
        one = table.filter((pc.field("curve") == "circuit") & (pc.field("asked") == pc.min(table["asked"])))
        contents = [Content("normalized faithfulness under the curve (CPR)", {"CPR": series(one, "cpr")})]
        sizes = series(one, "smallest")
        if len(sizes.steps):
            contents.append(Content(f"edges of the smallest circuit at {target:g}", {"edges": sizes}, log=True))
        contents = [content for content in contents if any(len(curve.steps) for curve in content.curves.values())]
        if contents:
            figure = Curves(contents, marks, [1.3] * len(contents)).figure
            words = "Where a step has no value, the behaviour is absent."
            found["steps"] = Drawing(figure, "faithfulness and circuit size over training steps", words, table=one)
    return found


def faithfulness_curve(table: pa.Table, target: float) -> Figure:
    """Normalized faithfulness of the circuit, of its complement and of random circuits, with bootstrap intervals."""
    curves = dict(zip(("circuit", "complement", "random"), (HUES[0], HUES[1], GREY)))
    figure, (axes,) = panels([2.4], label_margin(curves))
    axes.set_xscale("log")
    axes.set_xlim(0.7 * pc.min(table["share"]).as_py(), 1.4)
    if not np.isfinite(table["normalized"].to_numpy(zero_copy_only=False).astype(float)).any():
        axes.text(0.5, 0.5, "the behaviour is absent", ha="center", va="center", transform=axes.transAxes)
    for curve, colour in curves.items():
        rows = table.filter(pc.field("curve") == curve)
        x = rows["share"].to_numpy()
        y, low, high = (rows[name].to_numpy() for name in ("normalized", "normalized_low", "normalized_high"))
        axes.plot(x, y, "o-", color=colour, markersize=3.5, linewidth=1.6, label=curve)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.axhline(target, color=INK, linewidth=0.8, dashes=(2, 2))
    axes.set(xlabel="share of all edges asked for", ylabel="faithfulness, normalized")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure
