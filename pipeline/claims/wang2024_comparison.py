"""Comparison is learned out of distribution too, long after fitting (Wang et al. 2024, figure 1 right, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._curves import curves, first_step
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import match_key

ARM = "comparison"
SPLITS = ("train", "id", "ood", "ood_atomic")
KNOWN = 0.95  # exact match of `ood` that counts as learned

# One attribute, so that most of what is trained is comparisons: with three, `ood` is 0.75 when `id` is 0.95.
SMALL = {
    "corpus.num_attributes": "1", "corpus.num_entities": "200", "corpus.num_values": "10", "corpus.ood_fraction": "0.2",
    "corpus.ratio": "18", "model.n_layer": "2", "model.n_embd": "64", "model.n_head": "4", "model.n_positions": "16",
    "model.dropout": "0", "bf16": "false", "global_batch_size": "256", "learning_rate": "2e-3",
    "lr_scheduler_type": "linear", "adam_beta2": "0.98", "weight_decay": "1", "warmup_steps": "50", "eval_steps": "100",
    "max_eval_samples": "500", "checkpoints.every": "[]", "save_steps": "10000",
}  # fmt: skip


@dataclass(frozen=True)
class Wang2024Comparison(Claim):
    """Which of two entities has more of an attribute: pairs of entities that are never compared are answered too."""

    paper: ClassVar = Paper("Wang et al. 2024", "2405.15071", "figure 1 right, section 4")
    recipe: ClassVar = "comparison"
    targets: ClassVar = (
        Target(f"id @ {ARM}", "1.0 at step 350,000", low=0.99),
        Target(f"ood @ {ARM}", "0.99 at step 350,000", low=KNOWN),
        Target(f"ood at fit @ {ARM}", "0.86 at step 10,000, where train is 0.99", high=KNOWN),
        Target(f"ood gap @ {ARM}", "about 30: fits at 10,000, and `ood` is 0.957 at 300,000", low=2),
        Target(f"ood_atomic @ {ARM}", "1.0: the facts themselves are known", low=0.97),
    )
    costs: ClassVar = {
        "cpu": "3 runs of 1,500 steps, 2 minutes on one CPU core",
        "paper": "3 runs of up to 400,000 steps, on GPUs",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": {**SMALL, "corpus.num_entities": "40", "corpus.ratio": "5", "global_batch_size": "32",
                      "max_steps": "4", "eval_steps": "2", "model.n_layer": "1"},
            "cpu": {**SMALL, "max_steps": "1500"},
            "paper": {"max_steps": "400000"},
        }[self.budget]  # fmt: skip
        return {ARM: budget}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        ends = {split: run.at_end(split, "exact_match") for split in SPLITS}
        ood, fit = run.series[match_key("ood")], run.grok.fit_step
        known = first_step(ood, KNOWN)
        return {
            **ends,
            "fit_step": fit,
            "gen_step": run.grok.gen_step,
            "ood at fit": None if fit is None else dict(zip(*ood)).get(fit),
            "ood gap": None if fit is None or known is None else known / fit,
        }

    def draw(self, found: Found) -> Drawing:
        words = "Exact match over training steps: comparisons that are trained (train), held out (id), and of entities "
        words += "that are never compared in training (ood), beside the facts about those (ood_atomic)."
        return curves(found, {split: (ARM, split) for split in SPLITS}, words)
