"""The steps at which a run fits its training set and generalizes beyond it, and whether that is grokking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

THRESHOLD = 0.99  # exact match at which a split counts as learned
DELAY = 2  # generalization is delayed where it takes at least this many times the steps of fitting,
UNLEARNED = 0.5  # or where held-out exact match is below this at the fit step
NEAR = 0.9  # held-out exact match at the fit step that does not show a delay where the next evaluation ends it
PROBE = 3000  # rows of `train` that an evaluation looks at: the cap of Wang et al. 2024


def match_key(split: str, prefix: str = "eval") -> str:
    """The name under which a split's exact match is logged: `eval` while training, `final` at the end, on all rows."""
    return f"{prefix}_{split}_exact_match"


def judged_split(held_out: Sequence[str]) -> str | None:
    """Return the held-out split that decides whether a run generalizes: `id`, else the first, if there is one."""
    return "id" if "id" in held_out else next(iter(held_out), None)


def known_gen_step(finished: Mapping[str, Any]) -> int | None:
    """Return the step at which a finished run generalized, from its manifest; older code called it `grok_step`."""
    found = finished.get("gen_step")
    return finished.get("grok_step") if found is None else found


@dataclass
class GrokTracker:
    """Finds the first evaluations at which train and held-out exact match reach 0.99: `fit_step` and `gen_step`.

    `held_out` is the split that decides (None: the run cannot generalize). `match_at_fit` is its exact match at the fit
    step, `streak` counts the evaluations in a row, up to now, at which it was at or above the threshold.
    """

    held_out: str | None = "id"
    fit_step: int | None = None
    gen_step: int | None = None
    match_at_fit: float | None = None
    streak: int = 0
    waiting: int = 0  # evaluations after the fit step, before the one at which it generalized
    later: int = 0  # evaluations after that one,
    stayed: int = 0  # and those of them at or above the threshold

    def update(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Takes in an evaluation; metrics without exact matches are passed over."""
        train = metrics.get(match_key("train"))
        held_out = None if self.held_out is None else metrics.get(match_key(self.held_out))
        had_fitted = self.fit_step is not None
        if not had_fitted and train is not None and train >= THRESHOLD:
            self.fit_step, self.match_at_fit = step, held_out
        if held_out is None:
            return
        is_learned = held_out >= THRESHOLD
        self.streak = self.streak + 1 if is_learned else 0
        if self.gen_step is not None:
            self.later += 1
            self.stayed += is_learned
        elif is_learned:
            self.gen_step = step
        else:
            self.waiting += had_fitted

    @property
    def is_delayed(self) -> bool:
        """Whether it generalized long after it had fitted: twice the steps, or from below 0.5.

        Two curves that lie on each other can cross the threshold at two evaluations in a row, of which the second may
        come at twice the step: that shows no delay.
        """
        if self.fit_step is None or self.gen_step is None or self.gen_step <= self.fit_step:
            return False
        if self.match_at_fit is not None and self.match_at_fit < UNLEARNED:
            return True
        is_near = not self.waiting and self.match_at_fit is not None and self.match_at_fit >= NEAR
        return self.gen_step >= DELAY * self.fit_step and not is_near

    @property
    def grok_step(self) -> int | None:
        """`gen_step` where generalization is delayed; None where there is nothing to call grokking."""
        return self.gen_step if self.is_delayed else None

    @property
    def grok_gap(self) -> float | None:
        """gen_step / fit_step, delayed or not; None also where it fitted before any step."""
        return self.gen_step / self.fit_step if self.gen_step is not None and self.fit_step else None

    @property
    def stays(self) -> float | None:
        """The share of the evaluations after `gen_step` at or above the threshold; None where there is none."""
        return self.stayed / self.later if self.later else None

    def summary(self) -> dict[str, float | None]:
        gap = self.grok_gap
        return {
            "fit_step": self.fit_step,
            "gen_step": self.gen_step,
            "grok_step": self.grok_step,
            "grok_gap": None if gap is None else round(gap, 2),
            "stays": self.stays,
        }
