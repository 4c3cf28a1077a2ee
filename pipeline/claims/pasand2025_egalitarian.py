"""Egalitarian gradients generalize sooner (Saheb Pasand et al. 2025), here before AdamW and without test labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._accelerators import PLAIN, Accelerator, targets
from pipeline.claims.base import Paper


@dataclass(frozen=True)
class Pasand2025Egalitarian(Accelerator):
    """Addition modulo 53 with and without egalitarian gradients, each in three cells of rate and decay."""

    paper: ClassVar = Paper("Saheb Pasand et al. 2025", "2510.04930", "the claims of the abstract")
    method: ClassVar = "egalitarian"
    turned_on: ClassVar = {"optimizer": "{egalitarian: {}}"}
    targets: ClassVar = targets("no delay is left, by gradient descent on the first layer")
    cells: ClassVar = {
        PLAIN: (("2e-3", "1"), ("4e-3", "1"), ("4e-3", "2")),
        "egalitarian": (("2e-3", "1"), ("4e-3", "1"), ("4e-3", "2")),
    }
    costs: ClassVar = {"cpu": "18 runs, 5 minutes on one CPU core", "paper": "18 runs of up to 20,000 steps, on a GPU"}
    at_paper: ClassVar = {"corpus.train_fraction": "0.5", "max_steps": "20000"}
