"""KV shifting attention does induction in one layer, plain attention in two (Xu et al. 2024, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._curves import curves
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder

# The arms of induction: model, layers, steps at the cpu budget.
INDUCTION = {
    "shifted, 1 layer": ("gpt2_kv_shift", "1", "300"),
    "plain, 1 layer": ("gpt2", "1", "400"),
    "plain, 2 layers": ("gpt2", "2", "1200"),
}
FEW = {"circuits": "{}", "checkpoints.powers_of_two": "false"}  # only the weights at both ends are kept
# A table that has no rule, so that pairs of tokens have to be learned by heart.
TABLE = "{name: group, group: Z31, label_noise: 0.99, train_fraction: 0.9, template: a b = c}"
TABLES = {"table, shifted": "gpt2_kv_shift", "table, plain": "gpt2"}


@dataclass(frozen=True)
class Xu2024KvShifting(Claim):
    """Random tokens that repeat, at random distances, in one and two layers; and pairs that are learned by heart."""

    paper: ClassVar = Paper("Xu et al. 2024", "2411.19574", "section 3, figures 1 to 3")
    recipe: ClassVar = "induction_kv_shift"
    targets: ClassVar = (
        Target("gen_step @ shifted, 1 layer", "one layer learns it as fast as two plain ones, or faster", high=200),
        Target("id @ shifted, 1 layer", "1.0", low=0.99),
        Target("id @ plain, 1 layer", "one plain layer does not learn it", high=0.25),
        Target("id @ plain, 2 layers", "1.0", low=0.95),
        Target("train: table, shifted minus plain", "3-grams are learned by heart as well as before", low=-0.02),
    )
    costs: ClassVar = {"cpu": "15 runs, 7 minutes on one CPU core", "paper": "15 runs of 5,000 steps, on a GPU"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        smoke = {"max_steps": "4", "eval_steps": "2", "global_batch_size": "16"}
        rows = {"corpus.train_rows": "200", "corpus.id_rows": "50"}
        sizes = {
            "corpus.vocabulary_size": "8000", "corpus.length": "256", "corpus.longest": "128",
            "corpus.train_rows": "200000", "model.n_embd": "1024", "model.n_head": "16", "model.n_positions": "256",
            "learning_rate": "3e-4", "max_steps": "5000",
        }  # fmt: skip
        found = {}
        for arm, (model, layers, steps) in INDUCTION.items():
            more = {"smoke": {**smoke, **rows}, "cpu": {"max_steps": steps}, "paper": sizes}[self.budget]
            found[arm] = {"model.name": model, "model.n_layer": layers, **FEW, **more}
        for arm, model in TABLES.items():
            table = {"corpus": TABLE, "model.name": model, "objective.tokens": "answer", "weight_decay": "0"}
            more = smoke if self.budget == "smoke" else {"max_steps": "400", "global_batch_size": "256"}
            found[arm] = {**table, **FEW, **more}
        return found

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        ends = {split: run.at_end(split, "exact_match") for split in ("train", "id")}
        return {**ends, "fit_step": run.grok.fit_step, "gen_step": run.grok.gen_step}

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if target.name.startswith("train: table"):
            pairs = found.pairs("train", *TABLES)
            return [None if one is None or two is None else one - two for one, two in pairs]
        return super().numbers(target, found)

    def draw(self, found: Found) -> Drawing:
        words = "Exact match over training steps on held-out rows that repeat, by model; and (table) on pairs that are "
        words += "learned by heart."
        return curves(found, {arm: (arm, "id") for arm in INDUCTION} | {arm: (arm, "train") for arm in TABLES}, words)
