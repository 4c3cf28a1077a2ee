"""The steps at which a run fits its training set and generalizes beyond it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

THRESHOLD = 0.99  # exact match at which a split counts as learned
PROBE = 3000  # rows of `train` that an evaluation looks at: the cap of Wang et al. 2024


def match_key(split: str, prefix: str = "eval") -> str:
    """The name under which a split's exact match is logged: `eval` while training, `final` at the end, on all rows."""
    return f"{prefix}_{split}_exact_match"


@dataclass
class GrokTracker:
    """Finds `fit_step` and `grok_step`: the first evaluations at which train and held-out exact match reach 0.99.

    `streak` counts the evaluations in a row, up to now, with held-out exact match at or above the threshold.
    """

    held_out: str = "id"
    fit_step: int | None = None
    grok_step: int | None = None
    streak: int = 0

    def update(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Takes in an evaluation; metrics without exact matches are passed over."""
        train, held_out = metrics.get(match_key("train")), metrics.get(match_key(self.held_out))
        if self.fit_step is None and train is not None and train >= THRESHOLD:
            self.fit_step = step
        if held_out is None:
            return
        self.streak = self.streak + 1 if held_out >= THRESHOLD else 0
        if self.grok_step is None and self.streak:
            self.grok_step = step

    @property
    def grok_gap(self) -> float | None:
        """grok_step / fit_step: how much longer generalizing took than memorizing."""
        return (
            self.grok_step / max(self.fit_step, 1) if self.grok_step is not None and self.fit_step is not None else None
        )

    def summary(self) -> dict[str, float | None]:
        gap = self.grok_gap
        return {
            "fit_step": self.fit_step,
            "grok_step": self.grok_step,
            "grok_gap": None if gap is None else round(gap, 2),
        }
