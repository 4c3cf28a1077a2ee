"""Heat maps by layer and position."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.layers import layers_over_steps, shown_steps


def test_shown_steps_are_few_spread_and_end_with_the_last() -> None:
    assert shown_steps([0, 5]) == [0, 5]
    steps = shown_steps([0, *(2**k for k in range(12)), *range(2100, 10001, 100)])
    assert len(steps) == 6 and steps[0] == 0 and steps[-1] == 10000
    assert steps == sorted(steps)


def test_every_value_is_drawn_in_its_place() -> None:
    rows = [
        {"step": step, "layer": layer, "position": position, "target": target, "mrr": (step + layer + position) / 10}
        for step in (0, 3)
        for layer in range(3)
        for position in range(4)
        for target in ("answer", "bridge")
    ]
    figure = layers_over_steps(pa.Table.from_pylist(rows), "mrr")
    images = [axes.get_images()[0] for axes in figure.axes if axes.get_images()]
    assert len(images) == 4  # two targets, two steps
    expected = (3 + np.arange(3)[:, None] + np.arange(4)) / 10
    for image, step in zip(images, (0, 3, 0, 3)):
        np.testing.assert_allclose(image.get_array(), expected - 0.3 + step / 10)
        assert image.get_clim() == (0, 1) and image.origin == "lower"
    assert [axes.get_title() for axes in figure.axes[:2]] == ["step 0", "step 3"]
    assert figure.axes[0].get_ylabel().startswith("answer") and figure.axes[2].get_ylabel().startswith("bridge")
