"""The figure of models that act: what they gain from episode to episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.plots.axes import SIZE
from pipeline.plots.style import HUES, STYLE, label_margin, panels


@rc_context(STYLE)
def by_episode(curves: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """What is gained in each episode, 1 being the most there can be: label -> the curve of each run, and their mean."""
    figure, (axes,) = panels([2.6], label_margin(list(curves), SIZE))
    for (label, runs), hue in zip(curves.items(), HUES):
        episodes, mean = np.arange(1, len(runs[0]) + 1), np.mean(runs, axis=0)
        for run in runs:
            axes.plot(episodes, run, color=hue, linewidth=0.6)
        axes.plot(episodes, mean, "o-", color=hue, linewidth=1.8, markersize=3, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("episode in the context")
    axes.set_ylabel("return")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, handletextpad=0.2)
    return figure
