"""Two runs that part early end on either side of a barrier; those that part late are linearly connected.

Singh et al. 2024, "Landscaping Linear Mode Connectivity" (arXiv 2406.16300), section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.circuits.tables import by_step
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.barrier import WHOLE, ForkBarrier, heights, over_forks
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder

TRUNK = "trunk"
FITTED = 200
FORKS = {"fork at the start": 0, "fork once fitted": FITTED, "fork once generalizing": 1000}
EARLY, _, LATE = FORKS
SPLITS = ("train", "id")


@dataclass(frozen=True)
class Singh2024ModeConnectivity(Claim):
    """The barrier between the ends of a run and of its forks, which see the rows in another order, by fork step."""

    paper: ClassVar = Paper("Singh et al. 2024", "2406.16300", "section 4: forks of a run at several steps")
    recipe: ClassVar = "quickstart"
    targets: ClassVar = (
        Target(f"loss_train @ {EARLY}", "a ridge lies between runs that part at the start", low=0.5),
        Target("lower at the last fork than at the first", "the barrier falls with the fork step", low=0.25),
        Target(f"error_train @ {LATE}", "near 0; connected below 0.02 (Frankle et al. 2020)", high=0.02),
        Target(f"error_id @ {TRUNK}", "not in the paper: from memorizing to generalizing of one run", high=0.02),
    )
    costs: ClassVar = {"cpu": "12 runs, 6 minutes on two CPU cores", "paper": "12 runs of 20,000 steps"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        common = {
            "smoke": {"max_steps": "4", "eval_steps": "2", "save_steps": "2", "global_batch_size": "16",
                      "checkpoints.every": "[[2, null]]"},
            "cpu": {"max_steps": "1600", "eval_steps": "100", "save_steps": "200"},
            "paper": {"max_steps": "20000", "eval_steps": "100", "save_steps": "200", "model.n_layer": "2"},
        }[self.budget]  # fmt: skip
        common = {**common, "stop_when": "never", "save_total_limit": "null"}
        memorized, forks = FITTED, FORKS
        if self.budget == "smoke":
            memorized, forks = 2, {EARLY: 0, LATE: 2}
        barrier = "{{barrier: {{other: '{}', steps: {}, pairs: 1000}}}}"
        trunk = {**common, "circuits": barrier.format("last", f"'{memorized}'")}
        fork = {**common, "data_seed": "1000", "circuits": barrier.format(f"{{{TRUNK}}}@last", "last")}
        return {TRUNK: trunk} | {arm: {**fork, "fork": f"{{{TRUNK}}}@{step}"} for arm, step in forks.items()}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        (table,) = by_step(run.path, "barrier").values()
        found: dict[str, float | None] = {"distance": table["distance"][0].as_py()}
        for what in ("loss", "error"):
            found |= {f"{what}_{split}": heights(table, what)[WHOLE, split] for split in SPLITS}
        return found

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if target.name.startswith("lower"):
            pairs = found.pairs("loss_train", EARLY, LATE)
            return [first - last for first, last in pairs if first is not None and last is not None]
        return super().numbers(target, found)

    def draw(self, found: Found) -> Drawing:
        forks = [
            ForkBarrier(split, step, one.values[f"loss_{split}"] or 0.0)
            for arm, step in FORKS.items()
            for one in found.arms.get(arm, ())
            for split in SPLITS
        ]
        words = (
            "Barrier of the loss between the ends of a run and of a fork of it with its rows in another order, over "
        )
        words += "the step of the fork; each seed a point."
        return Drawing(over_forks(forks), words, words)
