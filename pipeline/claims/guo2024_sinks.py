"""Heads with nothing to copy look at the first token, whose value drains and whose stream peaks (Guo et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.circuits.sinks import NONE
from pipeline.circuits.tables import read_table
from pipeline.claims._curves import over_arms
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.plots.sinks import TITLES, curve_of, head_of, peak_of
from pipeline.runs.folder import RunFolder
from pipeline.runs.metrics import Series

# Arm -> model, layers.
ARMS = {
    "1 layer": ("gpt2", "1"),
    "3 layers": ("gpt2", "3"),
    "1 layer, ReLU": ("gpt2_relu_attention", "1"),
    "3 layers, ReLU": ("gpt2_relu_attention", "3"),
    "3 layers, SGD": ("gpt2", "3"),
}
# As in the paper, whose rate this is at its size and at this one.
SGD = {"optim": "sgd", "optim_args": "'momentum=0.9'", "learning_rate": "3e-2"}


@dataclass(frozen=True)
class Guo2024Sinks(Claim):
    """Bigrams and copies, in one and three layers, with a softmax and with a ReLU in its place, by AdamW and by SGD."""

    paper: ClassVar = Paper("Guo et al. 2024", "2410.13835", "sections 2 and 3, figures 2 to 5")
    recipe: ClassVar = "sinks"
    targets: ClassVar = (
        Target("sink @ 1 layer", "dormant heads look at the first token", low=0.5),
        Target("active @ 1 layer", "active heads do not", high=0.1),
        Target("drain @ 1 layer", "its value is small", high=0.5),
        Target("peak @ 1 layer", "no peak in one layer", high=2),
        Target("sink @ 3 layers", "a sink", low=0.5),
        Target("drain @ 3 layers", "a drained value", high=0.5),
        Target("drain in layer 0 @ 3 layers", "not said", high=0.5),
        Target("peak @ 3 layers", "and a peak of the stream", low=2),
        Target("sink @ 1 layer, ReLU", "no sink", high=0.1),
        Target("drain @ 1 layer, ReLU", "no drained value", low=0.5),
        Target("sink @ 3 layers, ReLU", "no sink", high=0.1),
        Target("peak @ 3 layers, ReLU", "no peak", high=2),
        Target("sink @ 3 layers, SGD", "a sink: SGD removes the peak alone", low=0.5),
        Target("drain @ 3 layers, SGD", "a drained value", high=0.5),
        Target("peak @ 3 layers, SGD", "no peak", high=2),
        Target("peak @ 3 layers, AdamW to SGD", "AdamW has the peak", low=1.5),
        Target("copy risk @ 1 layer", "0: copies are learned", high=0.1),
        Target("copy risk @ 1 layer, ReLU", "0: copies are learned", high=0.1),
        Target("copy risk @ 3 layers, SGD", "0: copies are learned", high=0.1),
    )
    costs: ClassVar = {"cpu": "15 runs, 15 minutes on one CPU core", "paper": "15 runs of 10,000 steps, on a GPU"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        found = {}
        for arm, (model, layers) in ARMS.items():
            more = {
                "smoke": {
                    "max_steps": "4", "eval_steps": "2", "global_batch_size": "16", "corpus.train_rows": "200",
                    "corpus.id_rows": "50",
                },
                "cpu": {},
                "paper": {
                    "corpus.vocabulary_size": "65", "corpus.length": "256", "corpus.train_rows": "1000000",
                    "model.n_embd": "256", "model.n_positions": "256", "global_batch_size": "512",
                    "learning_rate": "3e-3" if "relu" in model else "3e-4", "max_steps": "10000",
                },
            }[self.budget]  # fmt: skip
            optimizer = SGD if arm.endswith("SGD") else {}
            found[arm] = {"model.name": model, "model.n_layer": layers, **more, **optimizer}
        return found

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        found = _curves(run)
        return {name: curve.values[-1] for name, curve in found.items()}

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if target.name.endswith("AdamW to SGD"):
            return found.ratios("peak", "3 layers", "3 layers, SGD")
        return super().numbers(target, found)

    def draw(self, found: Found) -> Drawing:
        runs = {arm: [_curves(one.run) for one in ones] for arm, ones in found.arms.items()}
        panels = {"sink": f"{TITLES['attention']}, where nothing is copied", "drain": TITLES["value"],
                  "peak": TITLES["residual"]}  # fmt: skip
        words = "The head that looks most at the first token at the end: its attention to it, and the norm of that "
        words += "token's value; and the norm of the residual stream there; over training steps, mean over seeds."
        figure = over_arms({panels[name]: {arm: [one[name] for one in ones] for arm, ones in runs.items()}
                            for name in panels})  # fmt: skip
        return Drawing(figure, words, words)


def _curves(run: RunFolder) -> dict[str, Series]:
    """The numbers of a run over its steps."""
    table = read_table(run.path, "sinks")
    layer, head = head_of(table)
    return {
        "sink": curve_of(table, "attention", "dormant", layer, head),
        "active": curve_of(table, "attention", "active", layer, head),
        "sink logit": curve_of(table, "sink logit", "dormant", layer, head),
        "drain": curve_of(table, "value", "", layer, head),
        "drain in layer 0": curve_of(table, "value", "", 0, 0),
        "peak": curve_of(table, "residual", "", peak_of(table)),
        "copy risk": curve_of(table, "excess risk", "active", NONE),
        "bigram risk": curve_of(table, "excess risk", "dormant", NONE),
    }
