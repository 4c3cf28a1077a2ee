"""DPO takes probability from what it rejects, and gives it to what it never saw (Yan et al. 2024, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.axes import StepScale
from pipeline.plots.base import Drawing
from pipeline.plots.seeds import Group, comparison
from pipeline.plots.style import HUES
from pipeline.runs.folder import RunFolder

POLICY = "policy"
# The scenario of the pairs, and the objective.
ARMS = {
    "S1": (1, ""),
    "S2": (2, ""),
    "S3": (3, ""),
    "S4": (4, ""),
    "S1 flex": (1, ", beta_rejected: 0.02"),
    "S1 sft": (1, ", sft: 0.1"),
}


@dataclass(frozen=True)
class Yan2024Dpo3d(Claim):
    """Four prompts, ten responses: the probability of what is preferred and of what is in no pair, over 500 passes.

    Both responses of a pair are likely at first (S1), or the preferred one is not (S2), the rejected one (S3), neither
    (S4); then with a smaller beta for the rejected ones (flex), and with the likelihood of the preferred ones (sft).
    """

    paper: ClassVar = Paper(
        "Yan et al. 2024", "2406.07327", "section 3; numbers of a reproduction of its toy by a network of three layers"
    )
    recipe: ClassVar = "responses"
    targets: ClassVar = (
        Target("peak @ S1", "0.997 after 100 passes", low=0.95),
        Target("fall @ S1", "0.28: 0.997, then 0.72", low=0.1),
        Target("unseen @ S1", "0.28", low=0.15),
        Target("unseen @ S2", "0.66", low=0.15),
        Target("unseen @ S3", "0.54", low=0.15),
        Target("unseen @ S4", "0.80", low=0.15),
        Target("end @ S1 flex", "0.96", low=0.9),
        Target("end @ S1 sft", "0.999", low=0.98),
    )
    costs: ClassVar = {"cpu": "21 runs of 400 and 500 steps, 6 minutes on one CPU core"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        short = {"max_steps": "4", "eval_steps": "2"} if self.budget == "smoke" else {}
        found: dict[str, Mapping[str, str]] = {POLICY: {"corpus.prompts": "4", "circuits": "{}", **short}}
        for arm, (scenario, words) in list(ARMS.items())[: 1 if self.budget == "smoke" else None]:
            found[arm] = {
                "corpus": f"{{name: responses, rows: pairs, prompts: 4, scenario: {scenario}}}",
                "model": f"{{model_name_or_path: '{{{POLICY}}}', vocabulary: tokens}}",
                "objective": f"{{name: preference, rejected: corpus{words}}}",
                "callbacks": "{preference_dynamics: {}}", "circuits": "{}", "global_batch_size": "4",
                "max_steps": "500", "eval_steps": "10", "learning_rate": "1e-3", "warmup_steps": "0",
                "lr_scheduler_type": "constant", **short,
            }  # fmt: skip
        return found

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        if "preference_chosen" not in run.series:  # of the policy
            return dict.fromkeys(("peak", "end", "fall", "unseen", "rejected"))
        chosen, unseen = (run.series[f"preference_{what}"].values for what in ("chosen", "unseen"))
        return {
            "peak": max(chosen),
            "end": chosen[-1],
            "fall": max(chosen) - chosen[-1],
            "unseen": unseen[-1],
            "rejected": run.series["preference_rejected"].values[-1],
        }

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        return super().numbers(target, found) if target.name.partition(" @ ")[2] in found.arms else []

    def draw(self, found: Found) -> Drawing:
        runs = {arm: [one.run for one in found.arms[arm]] for arm in ARMS if arm in found.arms}
        curves = {arm: [run.series["preference_chosen"] for run in ones] for arm, ones in runs.items()}
        last = max(run.last_step for ones in runs.values() for run in ones)
        scale = StepScale.over(last, [series for group in curves.values() for series in group])
        groups = [Group(arm, group, hue) for (arm, group), hue in zip(curves.items(), HUES)]
        figure = comparison(groups, None, scale)
        figure.axes[0].set_ylabel("probability of the preferred response")
        words = (
            "Probability of the preferred responses over passes of DPO, by how likely the pair was at first (S1 to S4)."
        )
        return Drawing(figure, words, words)
