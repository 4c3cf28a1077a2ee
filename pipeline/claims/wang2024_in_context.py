"""Comparisons that need facts which are never told: by the weights alone, or with the facts in the prompt.

Wang et al. 2024, section 5 and table 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._curves import curves
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder

PARAMETRIC, DIRECT, CHAIN = "parametric", "in context", "in context with chain"
SPLITS = ("train", "id", "ood", "test_hard", "hard_0", "hard_1", "hard_2")
MODELS = "0.33 GPT-4-Turbo, 0.37 Gemini-1.5-Pro, which are not trained on it"
CHAINED = "0.31 GPT-4-Turbo, 0.12 Gemini-1.5-Pro, which are not trained on it"

FACTS = "num_entities: 200, num_attributes: 1, num_values: 10, ood_fraction: 0.2, train_fraction: 0.05"
PAPER_FACTS = "num_entities: 1000, num_attributes: 20, num_values: 20, ood_fraction: 0.1, train_fraction: 0.03"
SMALL = {
    "model.n_layer": "2", "model.n_embd": "64", "model.n_head": "4", "model.n_positions": "64", "model.dropout": "0",
    "bf16": "false", "learning_rate": "2e-3", "lr_scheduler_type": "linear", "adam_beta2": "0.98", "warmup_steps": "50",
    "eval_steps": "100", "max_eval_samples": "200", "checkpoints.every": "[]", "save_steps": "10000",
    "stop_when": "never",
}  # fmt: skip


@dataclass(frozen=True)
class Wang2024InContext(Claim):
    """The same questions without their facts, with them among others, and with a chain of them before the answer.

    A chain counts where all of it is right, not the label alone.
    """

    paper: ClassVar = Paper("Wang et al. 2024", "2405.15071", "table 1, section 5; models trained on prompts are ours")
    recipe: ClassVar = "complex_reasoning"
    targets: ClassVar = (
        Target(f"test_hard @ {PARAMETRIC}", "0.993", low=0.67),
        Target(f"hard_0 @ {DIRECT}", f"{MODELS}; here 4 facts", high=0.5),
        Target(f"hard_2 @ {DIRECT}", "the same; here 8 facts", high=0.5),
        Target(f"hard_0 @ {CHAIN}", f"{CHAINED}; here 4 facts", high=0.5),
        Target(f"hard_2 @ {CHAIN}", "the same; here 8 facts", high=0.5),
    )
    costs: ClassVar = {
        "cpu": "9 runs, 7 minutes on one CPU core",
        "paper": "9 runs of up to 1.5 million steps, on GPUs",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        size, prompts = {
            "smoke": ("num_entities: 40, num_attributes: 1, num_values: 5, ood_fraction: 0.3, train_fraction: 0.1", 1),
            "cpu": (FACTS, 4),
            "paper": (PAPER_FACTS, 1),
        }[self.budget]
        found = {PARAMETRIC: {"corpus": f"{{name: complex_reasoning, {size}}}"}}
        for arm, chain in {DIRECT: "false", CHAIN: "true"}.items():
            more = f"chain: {chain}, distractors: 2, prompts: {prompts}"
            found[arm] = {"corpus": f"{{name: complex_in_context, {size}, {more}}}"}
        steps: dict[str, dict[str, dict[str, str]]] = {
            "smoke": {arm: {**SMALL, "max_steps": "4", "eval_steps": "2", "global_batch_size": "32"} for arm in found},
            "cpu": {
                PARAMETRIC: {**SMALL, "max_steps": "600", "global_batch_size": "256", "weight_decay": "1"},
                DIRECT: {**SMALL, "max_steps": "1000", "global_batch_size": "64"},
                CHAIN: {**SMALL, "max_steps": "1000", "global_batch_size": "64"},
            },
            "paper": {arm: {} for arm in found},
        }
        if self.budget == "smoke":
            del found[DIRECT]
        return {arm: {**found[arm], **steps[self.budget][arm]} for arm in found}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        ends = {split: run.at_end(split, "exact_match") for split in SPLITS if split in run.splits}
        return {**ends, "fit_step": run.grok.fit_step, "gen_step": run.grok.gen_step}

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        _, _, arm = target.name.partition(" @ ")
        return super().numbers(target, found) if arm in found.arms else []  # a smoke run has some of the arms

    def draw(self, found: Found) -> Drawing:
        words = (
            "Exact match over training steps on questions that trained comparisons decide only together with facts: "
        )
        words += (
            "by the weights alone, with the facts in the prompt, and where the answer first says those that decide."
        )
        return curves(found, {arm: (arm, "test_hard") for arm in found.arms}, words)
