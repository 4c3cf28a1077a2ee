"""Muon generalizes sooner than AdamW (Tveit et al. 2025), with both tuned alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._accelerators import PLAIN, Accelerator, targets
from pipeline.claims.base import Paper

CELLS = (("2e-3", "1"), ("4e-3", "1"), ("4e-3", "2"))


@dataclass(frozen=True)
class Muon2025(Accelerator):
    """Addition modulo 53 by Muon and by AdamW, each in three cells of rate and decay."""

    paper: ClassVar = Paper("Tveit et al. 2025", "2504.16041", "abstract")
    method: ClassVar = "muon"
    turned_on: ClassVar = {"optimizer": "{muon: {}}"}
    targets: ClassVar = targets("mean over seven tasks: epoch 153 for AdamW, 103 for Muon (1.49)")
    cells: ClassVar = {PLAIN: CELLS, "muon": CELLS}
    costs: ClassVar = {"cpu": "18 runs, 5 minutes on one CPU core", "paper": "18 runs of up to 20,000 steps, on a GPU"}
    at_paper: ClassVar = {"corpus.train_fraction": "0.5", "model.n_layer": "4", "max_steps": "20000"}
