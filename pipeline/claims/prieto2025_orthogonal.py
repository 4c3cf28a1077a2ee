"""Without weight decay the orthogonal gradient generalizes at once (Prieto et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._accelerators import PLAIN, Accelerator, targets
from pipeline.claims.base import Paper


@dataclass(frozen=True)
class Prieto2025Orthogonal(Accelerator):
    """Addition modulo 53 by the orthogonal gradient without decay, and by AdamW with decay, each in three cells."""

    paper: ClassVar = Paper("Prieto et al. 2025", "2501.04697", "the orthogonal gradient, and its code")
    method: ClassVar = "orthogonal"
    turned_on: ClassVar = {"optimizer": "{orthogonal: {}}"}
    targets: ClassVar = targets("generalizes within 300 epochs, without decay")
    cells: ClassVar = {
        PLAIN: (("2e-3", "1"), ("4e-3", "1"), ("4e-3", "2")),
        "orthogonal": (("1e-3", "0"), ("2e-3", "0"), ("4e-3", "0")),
    }
    costs: ClassVar = {"cpu": "18 runs, 5 minutes on one CPU core", "paper": "18 runs of up to 20,000 steps, on a GPU"}
    at_paper: ClassVar = {"corpus.group": "Z113", "corpus.train_fraction": "0.4", "max_steps": "20000"}
