"""Rows of weights that are clipped, in place of weight decay, generalize sooner (ClipToGrok, a post by NiftyliuS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._accelerators import PLAIN, Accelerator, targets
from pipeline.claims.base import Paper


@dataclass(frozen=True)
class Cliptogrok2026(Accelerator):
    """Addition modulo 53 with clipped rows and no decay, and with decay, each in three cells of rate and decay."""

    paper: ClassVar = Paper("NiftyliuS, ClipToGrok", "none", "a post without a paper")
    method: ClassVar = "clipped"
    turned_on: ClassVar = {"callbacks.clipped_rows.norm": "1.0"}
    targets: ClassVar = targets("66, with Lion in two layers, over AdamW of unknown tuning")
    cells: ClassVar = {
        PLAIN: (("2e-3", "1"), ("4e-3", "1"), ("4e-3", "2")),
        "clipped": (("2e-3", "0"), ("4e-3", "0"), ("8e-3", "0")),
    }
    costs: ClassVar = {"cpu": "18 runs, 5 minutes on one CPU core", "paper": "18 runs of up to 20,000 steps, on a GPU"}
    at_paper: ClassVar = {"model.n_layer": "2", "max_steps": "20000"}
