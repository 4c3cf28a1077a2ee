"""What is readable and what decides, layer by layer, while facts come to be composed (Wang et al. 2024, figure 4).

Composition needs its second hop's facts in the upper layers, where only facts that were composed in training are found;
comparison looks both facts up below, side by side, so that facts which were never compared are found too.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from pipeline.circuits.tables import by_step
from pipeline.claims._sizes import DENSE, DENSE_MODEL, PAPER, SMOKE
from pipeline.claims.base import Claim, Found, Measured, Paper, Target
from pipeline.claims.wang2024_comparison import SMALL as SMALL_COMPARISON
from pipeline.plots.base import Drawing
from pipeline.plots.measures import Content, Curves
from pipeline.plots.seeds import over_seeds
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import match_key
from pipeline.runs.metrics import Series

COMPOSITION, COMPARISON = "composition", "comparison"
READABLE = 0.5  # mean reciprocal rank from which on a layer has a token
UNLEARNED = 0.5  # exact match of `id` below which a step is before generalization
LENS = "logit_lens: {split: 'id,ood', pairs: 200}"
HOPS = {"bridge": "r1", "answer": "r2"}
VALUES = {"value_1": "e1", "value_2": "e2"}


@dataclass(frozen=True)
class Wang2024Mechanism(Claim):
    """The logit lens and causal tracing over training, of two-hop facts and of comparisons."""

    paper: ClassVar = Paper("Wang et al. 2024", "2405.15071", "figure 4, sections 3.3 and 4.2")
    recipe: ClassVar = "composition_small"
    targets: ClassVar = (
        Target(f"bridge @ {COMPOSITION}", "1 at S[5, r1]: mean reciprocal rank of the bridge", low=0.9),
        Target(f"r1 strength grows @ {COMPOSITION}", "grows while it generalizes", low=0.1),
        Target(f"tail above bridge @ {COMPOSITION}", "first hop in layers 0 to 5, second in 5 to 8", low=1),
        Target(f"ood bridge @ {COMPOSITION}", "S[5, r1] has the bridge of OOD facts too", low=0.9),
        Target(f"ood tail @ {COMPOSITION}", "not found: the facts are not stored in the upper layers", high=0.2),
        Target(f"value_2 above value_1 @ {COMPARISON}", "0: both values are at S[5, e1] and S[5, e2]", high=0),
        Target(f"ood values @ {COMPARISON}", "the same layers hold OOD facts; 1 for the first value", low=0.9),
        Target(f"ood label @ {COMPARISON}", "so that OOD comparisons come out right", low=0.9),
    )
    costs: ClassVar = {
        "cpu": "6 runs, 9 minutes on one CPU core",
        "paper": "6 runs of up to 1.5 million steps, on GPUs",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        composed = {
            "smoke": {**SMOKE, "checkpoints.every": "[[2, null]]"},
            "cpu": {**DENSE, **DENSE_MODEL, "max_steps": "2000", "stop_when": "never", "eval_steps": "200",
                    "checkpoints": "{powers_of_two: false, every: [[200, null]]}"},
            "paper": {**PAPER, "max_steps": "1500000", "stop_patience": "10",
                      "checkpoints": "{powers_of_two: false, every: [[2000, 40000], [50000, null]]}"},
        }[self.budget]  # fmt: skip
        name = {"corpus": "{name: comparison}"}
        compared = {
            "smoke": {**name, **SMALL_COMPARISON, "corpus.num_entities": "40", "corpus.ratio": "5", "max_steps": "4",
                      "eval_steps": "2", "global_batch_size": "32", "checkpoints": "{every: [[2, null]]}"},
            "cpu": {**name, **SMALL_COMPARISON, "max_steps": "1500",
                    "checkpoints": "{powers_of_two: false, every: [[100, null]]}"},
            "paper": {**name, **{key: PAPER[key] for key in PAPER if not key.startswith("corpus.")},
                      "max_steps": "400000", "checkpoints": "{powers_of_two: false, every: [[50000, null]]}"},
        }[self.budget]  # fmt: skip
        if self.budget != "paper":
            compared["stop_when"] = "never"
        return {
            COMPOSITION: {**composed, "circuits": f"{{{LENS}, causal_tracing: {{pairs: 200}}}}"},
            COMPARISON: {**compared, "circuits": f"{{{LENS}}}"},
        }

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        lens = {step: _lens(table) for step, table in by_step(run.path, "logit_lens").items()}
        matches = dict(zip(*run.series[match_key("id")]))
        last = max(lens)
        before = max(step for step in lens if step == min(lens) or matches.get(step, 1) < UNLEARNED)
        found: dict[str, float | None] = {"before_step": before, "last_step": last, "id": matches.get(last)}
        if ("bridge", "r1", "id") in lens[last]:
            found |= {f"{when}bridge": best(lens[step]["bridge", "r1", "id"]) for when, step in _times(before, last)}
            layers = {target: first(lens[last][target, place, "id"]) for target, place in HOPS.items()}
            traced = {step: _strength(table) for step, table in by_step(run.path, "causal_tracing").items()}
            at = layers["bridge"] or 1
            found |= {f"{when}r1 strength": traced[step]["r1", at] for when, step in _times(before, last)}
            then, now = found["before r1 strength"], found["r1 strength"]
            return {
                **found,
                "r1 strength grows": None if then is None or now is None else now - then,
                "tail above bridge": _apart(layers["answer"], layers["bridge"]),
                "ood bridge": best(lens[last]["bridge", "r1", "ood"]),
                "ood tail": best(lens[last]["answer", "r2", "ood"]),
            }
        values = {what: lens[last][what, place, "id"] for what, place in VALUES.items()}
        ood = [best(lens[last][what, place, "ood"]) for what, place in VALUES.items()]
        return {
            **found,
            **{f"{when}value": best(lens[step]["value_1", "e1", "id"]) for when, step in _times(before, last)},
            "value_2 above value_1": _apart(first(values["value_2"]), first(values["value_1"])),
            "ood values": min(ood),
            "ood label": best(lens[last]["answer", "e2", "ood"]),
        }

    def draw(self, found: Found) -> Drawing:
        panels = []
        for arm, wanted in {COMPOSITION: HOPS, COMPARISON: VALUES | {"answer": "e2"}}.items():
            curves = {
                f"{target} at {place}, {split}": over_seeds(
                    [_curve(one, (target, place, split)) for one in found.arms[arm]]
                )[0]
                for split in ("id", "ood")
                for target, place in wanted.items()
            }
            panels.append(Content(f"{arm}: mean reciprocal rank in the best layer", curves))
        words = (
            "Mean reciprocal rank of tokens in the logits read off the best layer's state, over training steps and in "
        )
        words += "the mean over seeds, on held-out (id) and out-of-distribution (ood) prompts."
        return Drawing(Curves(panels, (), [1.7, 1.7]).figure, words, words)


Lens = dict[tuple[str, str, str], list[float]]  # token, place and split -> mean reciprocal rank by layer


def _times(before: int, last: int) -> tuple[tuple[str, int], ...]:
    return ("before ", before), ("", last)


def _lens(table: pa.Table) -> Lens:
    found: Lens = {}
    for row in sorted(table.to_pylist(), key=lambda row: row["layer"]):
        found.setdefault((row["target"], row["place"], row["split"]), []).append(row["mrr"])
    return found


def _strength(table: pa.Table) -> dict[tuple[str, int], float | None]:
    """Causal strength by place and layer; None where the model answers too little."""
    return {(row["place"], row["layer"]): row["strength"] for row in table.to_pylist()}


def best(by_layer: Sequence[float]) -> float:
    """The highest value after a block."""
    return max(by_layer[1:])


def first(by_layer: Sequence[float]) -> int | None:
    """The first layer after a block that has a token."""
    return next((layer for layer, value in enumerate(by_layer) if layer and value >= READABLE), None)


def _apart(upper: int | None, lower: int | None) -> float | None:
    return None if upper is None or lower is None else float(upper - lower)


def _curve(one: Measured, key: tuple[str, str, str]) -> Series:
    values = {step: best(_lens(table)[key]) for step, table in sorted(by_step(one.run.path, "logit_lens").items())}
    return Series(array("q", values), array("d", values.values()))
