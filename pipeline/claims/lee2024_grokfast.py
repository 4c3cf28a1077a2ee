"""Grokfast, a slow average added to the gradients, makes generalization come sooner (Lee et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._accelerators import PLAIN, Accelerator, targets
from pipeline.claims.base import Paper

CELLS = (("2e-3", "1"), ("4e-3", "1"), ("4e-3", "2"))


@dataclass(frozen=True)
class Lee2024Grokfast(Accelerator):
    """Addition modulo 53 with and without Grokfast, each in three cells of rate and decay."""

    paper: ClassVar = Paper("Lee et al. 2024", "2405.20233", "the run of its code")
    method: ClassVar = "grokfast"
    turned_on: ClassVar = {"optimizer": "{grokfast: {average: ema}}"}
    targets: ClassVar = targets("43.8: 39,890 steps without it and without decay, 910 with it and decay 0.005")
    cells: ClassVar = {PLAIN: CELLS, "grokfast": CELLS}
    costs: ClassVar = {"cpu": "18 runs, 6 minutes on one CPU core", "paper": "18 runs of up to 100,000 steps, on a GPU"}
    at_paper: ClassVar = {
        "corpus.operation": "*", "corpus.train_fraction": "0.5", "model.n_layer": "2", "adam_beta2": "0.98",
        "max_steps": "100000",
    }  # fmt: skip
