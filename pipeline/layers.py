"""Heat maps of an analysis by layer and position, one for each of some steps: how something forms over training."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.drawing import STYLE, WIDTH
from pipeline.scales import SIZE

MOST = 6  # steps side by side


def shown_steps(steps: list[int]) -> list[int]:
    """At most six of ascending steps, the last among them, as evenly spaced on a log scale as they come."""
    if len(steps) <= MOST:
        return steps
    places = np.log(np.maximum(steps, 0.5))
    wanted = np.linspace(places[0], places[-1], MOST)
    return sorted({steps[int(np.abs(places - place).argmin())] for place in wanted})


@rc_context(STYLE)
def layers_over_steps(table: pa.Table, value: str) -> Figure:
    """A row of heat maps for each target, a column for each step: `value`, in [0, 1], by layer and position.

    `table` has the columns step, layer, position, target, and `value`; layer 0 is at the bottom.
    """
    steps = shown_steps(sorted(pc.unique(table["step"]).to_pylist()))
    targets = pc.unique(table["target"]).to_pylist()
    layers, positions = (pc.max(table[name]).as_py() + 1 for name in ("layer", "position"))
    left, top, bottom, gap = 0.75, 0.3, 0.5, 0.12
    cell = (WIDTH - left - 0.75 - gap * (MOST - 1)) / MOST
    tall = min(max(cell * layers / positions, 0.5), 1.6)
    height = top + bottom + len(targets) * tall + (len(targets) - 1) * 0.3
    figure = Figure(figsize=(WIDTH, height))
    for row, target in enumerate(targets):
        y = height - top - (row + 1) * tall - row * 0.3
        for column, step in enumerate(steps):
            chosen = table.filter((pc.field("step") == step) & (pc.field("target") == target))
            grid = np.full((layers, positions), np.nan)
            grid[chosen["layer"].to_numpy(), chosen["position"].to_numpy()] = chosen[value].to_numpy()
            x = left + column * (cell + gap)
            axes = figure.add_axes((x / WIDTH, y / height, cell / WIDTH, tall / height))
            image = axes.imshow(grid, vmin=0, vmax=1, cmap="Blues", origin="lower", aspect="auto")
            axes.grid(False)
            axes.set_xticks(range(positions))
            axes.set_yticks(range(0, layers, max(layers // 4, 1)))
            axes.tick_params(length=0, labelbottom=row == len(targets) - 1, labelleft=column == 0)
            if row == 0:
                axes.set_title(f"step {step:,}", fontsize=SIZE)
            if column == 0:
                axes.set_ylabel(f"{target}\nlayer")
            if row == len(targets) - 1:
                axes.set_xlabel("position")
    edge = left + len(steps) * (cell + gap)
    scale = figure.add_axes((edge / WIDTH, bottom / height, 0.08 / WIDTH, (height - top - bottom) / height))
    figure.colorbar(image, cax=scale)
    scale.tick_params(length=2)
    scale.grid(False)
    return figure
