"""Agreement and brackets: structure is learned after the training distribution, or with it (Murty et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.circuits.tables import read_table
from pipeline.claims._curves import first_step, over_arms
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.plots.tree_projection import curve_of
from pipeline.runs.folder import RunFolder

FITTED = 0.99  # of what is asked in domain, as in the paper
# Corpus -> what the callback `choices` logs of it.
ASKED = {"tense_reinflection": "main_verb", "dyck": "closing"}
# Corpus -> a name for it, what the cpu budget makes of it, and the depths of both budgets.
TENSE = ("tense", "{name: tense_reinflection, lexicon: 2, longest: 9, train_rows: 6000, id_rows: 300, gen_rows: 300}")
DYCK = ("dyck", "{name: dyck, types: 5, depth: 6, longest: 36, train_rows: 6000, id_rows: 300, gen_rows: 300}")
DEPTHS = {"smoke": ((2, 4), (2,)), "cpu": ((2, 4), (2,)), "paper": ((2, 4, 6, 8), (6,))}


@dataclass(frozen=True)
class Murty2023TenseDyck(Claim):
    """Sentences put into the present, and brackets that close, where structure and order disagree or nest anew."""

    paper: ClassVar = Paper(
        "Murty et al. 2023", "2305.18741", "section 4, figures 2 and 3, tense reinflection and Dyck languages"
    )
    recipe: ClassVar = "question_formation"
    targets: ClassVar = (
        Target("id @ tense, 4 layers", "0.99 at steps 9,000 to 18,000", low=FITTED),
        Target("gen @ tense, 4 layers", "0.74 at step 102,000, 0.84 at 300,000", low=0.8),
        Target("when it fits @ tense, 4 layers", "below 0.5", high=0.5),
        Target("tense: 4 layers less 2", "0.7 of the runs with 4 layers pass 0.8, none with 2", low=0.1),
        Target("id @ dyck", "0.99 at steps 20,000 to 30,000", low=FITTED),
        Target("gen @ dyck", "0.95 at step 30,000, 0.99 at 80,000, with 6 layers", low=0.95),
        Target("distant gen @ dyck", "what it measures: brackets ten tokens away", low=0.95),
    )
    costs: ClassVar = {"cpu": "9 runs, 12 minutes on one CPU core", "paper": "15 runs of 300,000 steps, on a GPU"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": {"max_steps": "4", "eval_steps": "2", "save_steps": "4", "global_batch_size": "16",
                      "circuits": "{tree_projection: {steps: last, pairs: 20}}"},
            "cpu": {},
            "paper": {
                "model.n_embd": "512", "model.n_positions": "100", "model.dropout": "0.1", "global_batch_size": "8",
                "learning_rate": "1e-4", "adam_beta2": "0.999", "adam_epsilon": "1e-7", "weight_decay": "0",
                "warmup_steps": "10000", "max_grad_norm": "10", "max_steps": "300000", "eval_steps": "3000",
                "save_steps": "30000", "callbacks": "{choices: {most: 10000}}",
                "circuits": "{tree_projection: {steps: last, pairs: 10000}}",
            },
        }[self.budget]  # fmt: skip
        found = {}
        for (name, corpus), depths in zip((TENSE, DYCK), DEPTHS[self.budget]):
            for depth in depths:
                arm = name if name == DYCK[0] else f"{name}, {depth} layer{'s' * (depth > 1)}"
                found[arm] = {"corpus": self._corpus(corpus), "model.n_layer": str(depth), **budget}
        return found

    def _corpus(self, small: str) -> str:
        """A corpus of the cpu budget at the size of this one."""
        if self.budget == "smoke":
            return small.replace("6000", "200").replace("300", "40")
        if self.budget == "cpu":
            return small
        if "dyck" in small:
            return "{name: dyck, train_rows: 200000, id_rows: 20000, gen_rows: 20000}"
        return "{name: tense_reinflection, train_rows: 100000, id_rows: 1000, gen_rows: 10000}"

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        asked = ASKED[run.resolved["corpus"]["name"]]
        gen, known = (run.series[f"choice_{asked}_{split}"] for split in ("gen", "id"))
        distant = {split: run.series.get(f"choice_distant_{asked}_{split}") for split in ("gen", "id")}
        fit = first_step(known, FITTED)
        table = read_table(run.path, "tree_projection")
        return {
            "fit step": fit,
            "when it fits": None if fit is None else dict(zip(*gen))[int(fit)],
            "gen": gen.values[-1],
            "best": max(gen.values),
            "id": known.values[-1],
            **{f"distant {split}": None if curve is None else curve.values[-1] for split, curve in distant.items()},
            "gen exact match": run.at_end("gen", "exact_match"),
            "t score": curve_of(table, "t score").values[-1],
        }

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if target.name == "tense: 4 layers less 2":
            pairs = found.pairs("gen", "tense, 4 layers", "tense, 2 layers")
            return [None if one is None or two is None else one - two for one, two in pairs]
        return super().numbers(target, found)

    def draw(self, found: Found) -> Drawing:
        curves = {
            title: {
                arm: [one.run.series[f"choice_{ASKED[one.run.resolved['corpus']['name']]}_{split}"] for one in ones]
                for arm, ones in found.arms.items()
            }
            for title, split in (("right words as in training", "id"), ("where structure alone says which", "gen"))
        }
        words = "How often the main verb is right among all verbs (tense), and a closing bracket among those of all "
        words += "types (dyck), over training steps, mean over seeds."
        return Drawing(over_arms(curves), words, words)
