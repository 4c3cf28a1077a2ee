"""Figures of one run, one function each; every function takes plain data and returns a matplotlib Figure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.plots.axes import (
    SIZE,
    StepScale,
    axes_size,
    match_axis,
    quantity_axis,
    text_width,
)
from pipeline.plots.style import (
    GREY,
    HUES,
    STYLE,
    Line,
    Mark,
    Pen,
    draw,
    label_ends,
    label_margin,
    mark_margin,
    mark_steps,
    panels,
    place_marks,
)
from pipeline.runs.grokking import GrokTracker, match_key
from pipeline.runs.metrics import Series
from pipeline.utils.format import times

Columns = Mapping[str, Series]
FIT_PEN, GROK_PEN = Pen(GREY), Pen(HUES[0])
LONGEST = 40  # letters of a label beside curves
LOSS = "loss, in nats per answer token"
# Panels below the loss: key -> title, and whether the axis is logarithmic.
INTERNALS = {
    "weight_norm": ("norm of the weights (L2)", False),
    "grad_norm": ("norm of the gradient (L2)", True),
    "commutator_defect": ("commutator defect of two batches", True),
    "spectral_entropy": ("spectral entropy of what the output projection reads", False),
    "head_similarity": ("cosine between the patterns of two attention heads", False),
    "head_entropy_spread": ("standard deviation over heads of the entropy of attention, in nats", False),
    "llc": ("local learning coefficient", False),
    "eval_train_softmax_collapse": ("share of training answers whose softmax has collapsed to 1", False),
}


def split_pens(splits: Collection[str], held_out: Collection[str]) -> dict[str, Pen]:
    """What is trained in grey, what is held out in colour; probes of training data thin and dashed."""
    main = ["train", *(split for split in splits if split in held_out)]
    probes = [split for split in splits if split not in main]
    hues = iter([*HUES, *["#000000"] * len(splits)])
    pens = {"train": FIT_PEN, **{split: Pen(next(hues)) for split in main[1:]}}
    dashes = ["--", ":", "-."]
    return pens | {split: Pen(next(hues), 1.3, dashes[i % 3]) for i, split in enumerate(probes)}


@rc_context(STYLE)
def grokking_curve(
    columns: Columns, pens: Mapping[str, Pen], grok: GrokTracker, scale: StepScale, fork: ForkMark | None = None
) -> Figure:
    """Exact match of every split over log steps, with the steps marked at which the run fits and generalizes.

    Before a fork the curves are those of its parent, thin and grey.

    `pens` names the splits. A dot on a curve is the evaluation that first reached 0.99.
    """
    right, marks, gap = _right(pens, grok, scale), step_marks(grok), grok.grok_gap
    placed = place_marks(marks, scale, right)
    figure, (axes,) = panels([3.1], right, top=0.5 if any(place.row for place in placed) else 0.32)
    match_axis(axes, scale)
    lines = [Line(split, columns[match_key(split)], pen) for split, pen in pens.items() if match_key(split) in columns]
    for line in [*lines[:1], *lines[:0:-1]]:  # where curves meet, the first held-out split is on top
        draw_forked(axes, line, scale, fork)
    mark_fork(axes, fork)
    if fork:
        _name_fork(axes, fork, scale)
    label_ends(axes, lines, scale)
    mark_steps(axes, marks, grok.is_delayed)
    for split, step in (("train", grok.fit_step), (grok.held_out, grok.gen_step)):
        if split is not None and split in pens and step is not None:
            steps, values = columns[match_key(split)]
            axes.plot(
                step, values[steps.index(step)], "o", color=pens[split].colour, markeredgecolor="white", markersize=7,
                clip_on=False, zorder=6,
            )  # fmt: skip
    width, height = axes_size(axes)
    for mark, left, _, row in placed:
        above = 1 + (0.08 + 0.18 * row) / height
        axes.text(left / width, above, mark.text, color=mark.colour, transform=axes.transAxes)
    if gap and grok.is_delayed:
        start, stop = (float(scale.position(mark.step)) for mark in marks)
        _gap_arrow(axes, f"{times(gap)}×", start, stop, above=0.12 / height)
    return figure


class ForkMark(NamedTuple):
    """Where a run went on from another one: its name, and the step."""

    parent: str
    step: int


def draw_forked(axes: Axes, line: Line, scale: StepScale, fork: ForkMark | None) -> None:
    """Draws a curve; what comes before a fork is thin and grey."""
    if fork is None:
        draw(axes, line, scale)
        return
    steps, values = line.series
    first, after = bisect_left(steps, fork.step), bisect_right(steps, fork.step)
    draw(axes, Line("", Series(steps[:after], values[:after]), Pen(GREY, 0.7, line.pen.dashes)), scale)
    first = first if first < after else max(first - 1, 0)  # joined to the last point of the parent
    draw(axes, line._replace(series=Series(steps[first:], values[first:])), scale)


def mark_fork(axes: Axes, fork: ForkMark | None) -> None:
    """A dotted line at the fork."""
    if fork is not None:
        axes.axvline(fork.step, color="#000000", linewidth=1, linestyle=":", zorder=1.5)


def _name_fork(axes: Axes, fork: ForkMark, scale: StepScale) -> None:
    """The parent's name along the line of the fork."""
    name = fork.parent if len(fork.parent) <= LONGEST else f"{fork.parent[:LONGEST]}…"
    left = float(scale.position(fork.step)) - 0.06 / axes_size(axes)[0]
    axes.text(left, 0.5, f"forks from {name} at {fork.step:,}", transform=axes.transAxes, rotation=90,
              fontsize=SIZE - 1, color=GREY, ha="right", va="center", zorder=5,
              bbox={"color": "white", "alpha": 0.7, "pad": 1})  # fmt: skip


def _right(pens: Mapping[str, Pen], grok: GrokTracker, scale: StepScale) -> float:
    """Room right of the axes, the same in all figures of a run."""
    return max(label_margin(pens), mark_margin(step_marks(grok), scale))


def step_marks(grok: GrokTracker) -> list[Mark]:
    """The steps at which a run fits and generalizes, in their order, with the words that stand at them."""
    fit, learned = grok.fit_step, grok.gen_step
    if fit is not None and fit == learned:
        return [Mark(fit, f"fits and generalizes at {fit:,}", GROK_PEN.colour)]
    marks = [] if fit is None else [Mark(fit, f"fits at {fit:,}", FIT_PEN.colour)]
    if learned is not None:
        word = "groks" if grok.is_delayed else "generalizes"
        marks.append(Mark(learned, f"{word} at {learned:,}", GROK_PEN.colour))
    return sorted(marks, key=lambda mark: mark.step)


def _gap_arrow(axes: Axes, text: str, start: float, stop: float, above: float) -> None:
    """The gap as an arrow from one mark to the next, above the axes, where there is room for it."""
    width, _ = axes_size(axes)
    middle, half = (start + stop) / 2, (text_width(text) / 2 + 0.06) / width
    if stop - start < 2 * half + 0.4 / width:
        return
    for tail, head in ((middle - half, start), (middle + half, stop)):
        arrow = {"arrowstyle": "-|>,head_length=0.3,head_width=0.15", "color": GREY, "shrinkA": 0, "shrinkB": 1}
        axes.annotate(
            "", (head, 1 + above), (tail, 1 + above), "axes fraction", "axes fraction", arrow, annotation_clip=False
        )
    axes.text(middle, 1 + above, text, transform=axes.transAxes, ha="center", va="center")


def panel_titles(columns: Columns) -> list[str]:
    """What `training` has to show."""
    titles = [LOSS] if "loss" in columns or "eval_train_loss" in columns else []
    return titles + [title for key, (title, _) in INTERNALS.items() if _has_values(columns, key)]


def _has_values(columns: Columns, key: str) -> bool:
    return key in columns and any(columns[key].values)


@rc_context(STYLE)
def training(
    columns: Columns, pens: Mapping[str, Pen], grok: GrokTracker, scale: StepScale, fork: ForkMark | None = None
) -> Figure:
    """The loss of what is trained and held out, and below it norms and softmax collapse, as far as they were logged.

    `pens` names the splits; thin ones are probes, and their losses are left out.
    """
    main = {split: pen for split, pen in pens.items() if pen.width == FIT_PEN.width}
    keys = {split: f"eval_{split}_loss" for split in main}
    losses = [Line(split, columns[keys[split]], pen) for split, pen in main.items() if keys[split] in columns]
    if not losses and "loss" in columns:
        losses = [Line("train", columns["loss"], FIT_PEN)]
    below = [key for key in INTERNALS if _has_values(columns, key)]
    figure, rows = panels([1.7] * bool(losses) + [0.95] * len(below), _right(pens, grok, scale), top=0.25)
    rest = list(rows)
    if losses:
        axes = rest.pop(0)
        for line in losses:
            draw_forked(axes, line, scale, fork)
        quantity_axis(axes, LOSS, [line.series for line in losses], log=True)
        label_ends(axes, losses, scale)
    for key, axes in zip(below, rest):
        title, log = INTERNALS[key]
        draw_forked(axes, Line("", columns[key], Pen(GREY, 1.4)), scale, fork)
        quantity_axis(axes, title, [columns[key]], log)
    for axes in rows:
        mark_fork(axes, fork)
        scale.apply(axes, labelled=axes is rows[-1])
        mark_steps(axes, step_marks(grok), grok.is_delayed)
    return figure
