"""What makes compositions of facts that are never composed in training come out right: one corpus, many remedies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._curves import curves
from pipeline.claims._sizes import PAPER, SMOKE
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder

SAID = {"corpus.bridge": "said"}
LOOPED = {"model.name": "gpt2_looped", "model.n_layer": "2"}
METHODS: Mapping[str, Mapping[str, str]] = {
    "silent": {},
    "bridge said": SAID,
    "said, 20 % wrong tails": {**SAID, "corpus.wrong_tails": "0.2"},
    "said, 20 % wrong bridges": {**SAID, "corpus.wrong_bridges": "0.2"},
    "identity rows": {"corpus.identity": "1", "corpus.one_position": "true"},
    "shared, two loops": {**LOOPED, "model.n_loops": "2"},
    "recurrent, four loops": {
        **LOOPED, "model.n_loops": "4", "corpus.one_position": "true", "max_grad_norm": "0",
        "objective.label_smoothing": "0.1", "decay_norms_and_biases": "true",
    },
}  # fmt: skip


@dataclass(frozen=True)
class OodMethods(Claim):
    """The same corpus, width, steps and seeds: what reaches `ood`, and whether the facts behind it are known."""

    paper: ClassVar = Paper(
        "Wang et al. 2024; TCotMechanism; Lin et al. 2025; Kohli et al. 2026", "2405.15071", "figures on `ood`"
    )
    recipe: ClassVar = "composition_small"
    targets: ClassVar = (
        Target("ood @ silent", "near 0 (Wang et al.)", high=0.1),
        Target("ood @ bridge said", "0.953 at step 8,000 with 5 % wrong tails (TCotMechanism)", low=0.9),
        Target("ood @ said, 20 % wrong tails", "0.776 at step 20,000", low=0.5),
        Target("ood @ said, 20 % wrong bridges", "not stated; 0.513 with 5 %", high=0.7),
        Target("ood @ identity rows", "succeeds (Lin et al., from the abstract)", low=0.5),
        Target("ood @ shared, two loops", "0.23 at step 250,000, 0.73 at 1.5 million (Wang et al.)", low=0.2),
        Target("ood @ recurrent, four loops", "a third stage, after `id` (Kohli et al.)", low=0.5),
    )
    costs: ClassVar = {
        "cpu": "21 runs of 6,000 steps, two to three hours on two CPU cores",
        "paper": "21 runs of 250,000 steps, on GPUs",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": SMOKE,
            "cpu": {"max_steps": "6000", "stop_when": "never"},
            "paper": {**PAPER, "corpus.ratio": "7.2", "max_steps": "250000", "stop_when": "never"},
        }[self.budget]
        methods = dict(METHODS)
        if self.budget == "smoke":
            methods = {
                arm: methods[arm] for arm in ("said, 20 % wrong tails", "identity rows", "recurrent, four loops")
            }
        if self.budget == "paper":
            methods = {arm: {**more, "model.n_layer": "4"} if more.get("model.n_layer") else more
                       for arm, more in methods.items()}  # fmt: skip
        return {arm: {"circuits": "{}", **budget, **more} for arm, more in methods.items()}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        ends = {split: run.at_end(split, "exact_match") for split in ("train", "id", "ood", "ood_atomic")}
        return {**ends, "fit_step": run.grok.fit_step, "gen_step": run.grok.gen_step}

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        _, _, arm = target.name.partition(" @ ")
        return super().numbers(target, found) if arm in found.arms else []  # a smoke run has some of the arms

    def draw(self, found: Found) -> Drawing:
        words = "Exact match over training steps on compositions of facts that are never composed in training, by what "
        words += "is done about it; each seed thin, and their mean."
        return curves(found, {arm: (arm, "ood") for arm in found.arms}, words)
