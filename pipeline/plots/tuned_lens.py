"""The figure of the analysis `tuned_lens` over steps: how far both lenses are from the model's output, by layer."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib import rc_context

from pipeline.plots.base import Drawing
from pipeline.plots.measures import Content, Curves, series
from pipeline.plots.style import STYLE, Mark

MOST = 7  # layers with a curve of their own


@rc_context(STYLE)
def draw_divergence(table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
    """Where prompts end; none of a single step."""
    steps, layers = (sorted(set(table[name].to_pylist())) for name in ("step", "layer"))
    if len(steps) < 2:
        return {}
    every = -(-len(layers) // MOST)
    end = table.filter(pc.field("position") == pc.max(table["position"]))
    contents = []
    for lens in dict.fromkeys(table["lens"].to_pylist()):
        of = end.filter(pc.field("lens") == lens)
        curves = {f"layer {layer}": series(of.filter(pc.field("layer") == layer), "kl") for layer in layers[::every]}
        contents.append(Content(f"{lens}: divergence from the model's output, in nats", curves))
    caption = "KL(model || lens) where prompts end, of prompts that the tuned lens was not trained on."
    figure = Curves(contents, marks, [1.6] * len(contents)).figure
    return {"steps": Drawing(figure, "Divergence of two lenses from the model's output over steps", caption)}
