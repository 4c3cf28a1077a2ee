"""One block of memories does induction, and two learn new languages within a row (Zhang et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._curves import curves
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder

MODELS = {"mosaic": "memory_mosaics", "transformer": "gpt2"}
# Task -> overrides, and steps of mosaic and transformer at the cpu budget.
TASKS = {
    "induction": ({"corpus": "{name: induction}", "model.n_layer": "1", "model.n_positions": "32"}, ("200", "400")),
    "new languages": ({}, ("300", "900")),
    "four languages": ({"corpus.languages": "4"}, ("200", "200")),
}


@dataclass(frozen=True)
class Zhang2024MemoryMosaics(Claim):
    """Rows that repeat, in one block; strings of languages never trained, and of four that are, in two blocks.

    A transformer has three times as many steps for new languages. Bounds were set after runs of one seed.
    """

    paper: ClassVar = Paper("Zhang et al. 2024", "2405.06394", "sections on induction and in-context learning")
    recipe: ClassVar = "in_context_languages"
    targets: ClassVar = (
        Target("id @ mosaic, induction", "one block does induction", low=0.99),
        Target("id @ transformer, induction", "two blocks are needed", high=0.25),
        Target("ood @ mosaic, new languages", "not said in these units", low=0.8),
        Target("ood: mosaic minus transformer, new languages", "better than transformers of its size", low=0.05),
        Target("id: mosaic minus transformer, four languages", "equal in distribution", low=-0.03, high=0.03),
        Target("id loss: mosaic minus transformer, four languages", "equal in distribution", low=-0.05, high=0.05),
    )
    costs: ClassVar = {"cpu": "18 runs, 8 minutes on one CPU core", "paper": "18 runs of 20,000 steps, on a GPU"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        smoke = {
            "max_steps": "4", "eval_steps": "2", "global_batch_size": "16", "corpus.train_rows": "200",
            "corpus.id_rows": "50",
        }  # fmt: skip
        # The authors' configuration for these languages.
        sizes = {
            "model.n_embd": "128", "model.n_head": "8", "model.n_positions": "512", "model.dropout": "0.05",
            "learning_rate": "5e-4", "weight_decay": "0.1", "max_grad_norm": "1", "global_batch_size": "32",
            "max_steps": "20000", "eval_steps": "1000",
        }  # fmt: skip
        languages = {
            "corpus.symbols": "18", "corpus.most_states": "12", "corpus.longest": "50", "corpus.length": "512",
            "corpus.train_rows": "40000",
        }  # fmt: skip
        found = {}
        for task, (overrides, steps) in list(TASKS.items())[: 1 if self.budget == "smoke" else None]:
            for (name, model), last in zip(MODELS.items(), steps):
                more = {
                    "smoke": smoke,
                    "cpu": {"max_steps": last},
                    "paper": {**sizes, **({} if task == "induction" else languages)},
                }[self.budget]
                if self.budget == "paper" and task == "new languages":
                    more = {**more, "corpus.languages": "40000"}
                found[f"{name}, {task}"] = {**overrides, "model.name": model, **more}
        return found

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        ends = {split: run.at_end(split, "exact_match") for split in ("train", "id", "ood")}
        return {**ends, "id loss": run.at_end("id", "loss"), "gen_step": run.grok.gen_step}

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if self.budget == "smoke":  # has the first task alone
            return []
        key, _, rest = target.name.partition(": ")
        if not rest:
            return super().numbers(target, found)
        arms, _, task = rest.partition(", ")
        pairs = found.pairs(key, *(f"{name}, {task}" for name in arms.split(" minus ")))
        return [None if one is None or two is None else one - two for one, two in pairs]

    def draw(self, found: Found) -> Drawing:
        splits = {"induction": "id", "new languages": "ood", "four languages": "id"}
        words = "Exact match over training steps: held-out rows that repeat, in one block; and in two, of rows in "
        words += "languages that are never trained, and in four that are."
        return curves(found, {arm: (arm, splits[arm.partition(", ")[2]]) for arm in found.arms}, words)
