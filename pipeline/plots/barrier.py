"""Figures of the analysis `barrier`: loss on the line between two models, and its height over steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.plots.axes import SIZE
from pipeline.plots.base import Drawing
from pipeline.plots.measures import Content, Curves, series
from pipeline.plots.style import GREY, HUES, STYLE, Mark
from pipeline.plots.style import panels as stacked

WHOLE = "all"


class ForkBarrier(NamedTuple):
    """The barrier on a split between the ends of a run and of its fork at a step."""

    split: str
    step: int
    height: float


Heights = dict[tuple[str, str], float]  # part, split -> height


def heights(table: pa.Table, what: str = "loss") -> Heights:
    """The barrier of each part on each split, in the table of one step: the most that lies above the straight line."""
    found: Heights = {}
    for part, split, above in zip(*(table[name].to_pylist() for name in ("part", "split", f"{what} above"))):
        found[part, split] = max(found.get((part, split), 0.0), np.inf if above is None else above)
    return found


@rc_context(STYLE)
def draw_barrier(table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    steps = sorted(set(table["step"].to_pylist()))
    last = table.filter(pc.field("step") == steps[-1])
    found: dict[str, Drawing] = {}
    if len(steps) > 1:
        rows = [
            {"step": step, "part": part, "split": split, what: height}
            for step in steps
            for what in ("loss", "error")
            for (part, split), height in heights(table.filter(pc.field("step") == step), what).items()
        ]
        every = pa.Table.from_pylist(rows, pa.schema(_HEIGHTS))
        contents = []
        for what, unit in (("loss", "loss, in nats"), ("error", "error")):
            whole = every.filter(pc.field("part") == WHOLE)
            curves = {
                split: series(whole.filter(pc.field("split") == split), what)
                for split in dict.fromkeys(last["split"].to_pylist())
            }
            contents.append(Content(f"barrier of the {unit}", curves))
        caption = "The most that loss and error lie above the straight line between both models."
        drawn = Curves([one for one in contents if _rises(one)] or contents[:1], marks, [1.6] * len(contents))
        alt = "Barriers between a step and the other model, over steps"
        found[""] = Drawing(drawn.figure, alt, caption, table=every)
    caption = f"On the straight line from step {steps[-1]:,} (0) to the other model (1); dotted, between the two ends."
    found["path"] = Drawing(path(last), "Loss and error on the line between two models", caption, table=last)
    return found


_HEIGHTS = [
    ("step", pa.int64()), ("part", pa.string()), ("split", pa.string()), ("loss", pa.float64()), ("error", pa.float64())
]  # fmt: skip


def _rises(content: Content) -> bool:
    return any(max(curve.values, default=0.0) > 0 for curve in content.curves.values())


@rc_context(STYLE)
def path(table: pa.Table) -> Figure:
    """Loss and error of all weights along the line at one step, a curve for each split."""
    whole = table.filter(pc.field("part") == WHOLE)
    splits = list(dict.fromkeys(whole["split"].to_pylist()))
    figure, rows = stacked([1.6, 1.2], 0.9, top=0.25, gap=0.4)
    for axes, (what, title) in zip(rows, {"loss": "loss, in nats", "error": "error"}.items()):
        for i, split in enumerate(splits):
            chosen = whole.filter(pc.field("split") == split).sort_by("alpha")
            alphas, values = chosen["alpha"].to_pylist(), chosen[what].to_pylist()
            hue = [*HUES, GREY][i % (len(HUES) + 1)]
            axes.plot(alphas, values, color=hue, label=split)
            axes.plot([0, 1], [values[0], values[-1]], ":", color=hue, linewidth=0.8)
        axes.set_title(title, loc="left", fontsize=SIZE)
        axes.set_xlim(0, 1)
        axes.tick_params(labelbottom=axes is rows[-1])
    rows[0].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    rows[-1].set_xlabel("share of the way to the other model's weights")
    return figure


@rc_context(STYLE)
def over_forks(forks: Sequence[ForkBarrier]) -> Figure:
    """Barriers over the step of the fork: each a point, with lines through their means."""
    figure, (axes,) = stacked([2.2], 0.9, top=0.3)
    steps = sorted({fork.step for fork in forks})
    for i, split in enumerate(dict.fromkeys(fork.split for fork in forks)):
        points = [(steps.index(fork.step), fork.height) for fork in forks if fork.split == split]
        means = [float(np.mean([height for at, height in points if at == place])) for place in range(len(steps))]
        axes.plot(range(len(steps)), means, color=HUES[i], linewidth=1.2, label=split)
        axes.plot([at for at, _ in points], [height for _, height in points], "o", color=HUES[i], markersize=5)
    axes.set_xticks(range(len(steps)), [f"{step:,}" for step in steps])
    axes.margins(0.08)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.set_xlabel("step of the fork")
    axes.set_title("barrier of the loss, in nats", loc="left", fontsize=SIZE)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure
