"""Structure is learned long after the training distribution, at some depths alone (Murty et al. 2023)."""

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

GEN, ID = "choice_first_auxiliary_gen", "choice_first_auxiliary_id"
DEPTHS = {"smoke": (1, 2, 3), "cpu": (1, 2, 4), "paper": (2, 4, 6, 8, 10)}
FITTED, GENERAL = 0.99, 0.8  # of the paper: in-domain accuracy, and that from which on a run counts as general


@dataclass(frozen=True)
class Murty2023Hierarchy(Claim):
    """Questions by models of several depths: which auxiliary they move where structure and order disagree."""

    paper: ClassVar = Paper("Murty et al. 2023", "2305.18741", "sections 4 and 5, figures 2 to 4, question formation")
    recipe: ClassVar = "question_formation"
    targets: ClassVar = (
        Target("best depth", "0.84 at step 102,000, 0.93 at 300,000, with 6 layers", low=0.8),
        Target("gen step to fit step, best depth", "fits at 6,000, 0.84 at 102,000", low=2),
        Target("when it fits, best depth", "below 0.4", high=0.4),
        Target("best depth less the shallowest", "0.8 of the runs with 6 layers pass 0.8, none with 2", low=0.1),
        Target("best depth less the deepest", "0.8 of the runs with 6 layers, 0.1 with 10", low=0.1),
        Target("t score ranks the best depth first", "0.885 with 6 layers, 0.838 with 2, 0.842 with 10", low=1),
        Target("norm ranks the best depth first", "no: shallow models have the largest", high=0),
        Target("sparsity ranks the best depth first", "no: shallow models have the sparsest attention", high=0),
    )
    costs: ClassVar = {"cpu": "9 runs, 8 minutes on one CPU core", "paper": "15 runs of 300,000 steps, on a GPU"}

    @property
    def names(self) -> dict[int, str]:
        return {depth: f"{depth} layer{'s' * (depth > 1)}" for depth in DEPTHS[self.budget]}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": {
                "max_steps": "4", "eval_steps": "2", "save_steps": "4", "global_batch_size": "16",
                "corpus.train_rows": "200", "corpus.id_rows": "40", "corpus.gen_rows": "40",
                "circuits": "{tree_projection: {steps: last, pairs: 20}}",
            },
            "cpu": {},
            "paper": {
                "corpus.lexicon": "13", "corpus.longest": "null", "corpus.train_rows": "100000",
                "corpus.id_rows": "1000", "corpus.gen_rows": "10000", "model.n_embd": "512", "model.dropout": "0.1",
                "global_batch_size": "8", "learning_rate": "1e-4", "adam_beta2": "0.999", "adam_epsilon": "1e-7",
                "weight_decay": "0", "warmup_steps": "10000", "max_grad_norm": "10", "max_steps": "300000",
                "eval_steps": "3000", "save_steps": "30000", "callbacks": "{choices: {most: 10000}}",
                "circuits": "{tree_projection: {steps: last, pairs: 10000}}",
            },
        }[self.budget]  # fmt: skip
        return {name: {"model.n_layer": str(depth), **budget} for depth, name in self.names.items()}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        gen, known = run.series[GEN], run.series[ID]
        table = read_table(run.path, "tree_projection")
        fit = first_step(known, FITTED)
        by_step = dict(zip(*gen))
        depth = int(run.resolved["model"]["n_layer"])
        norm = run.latest("weight_norm")
        return {
            "fit step": fit,
            "gen step": first_step(gen, GENERAL),
            "when it fits": None if fit is None else by_step[int(fit)],
            "gen": gen.values[-1],
            "general": None if fit is None else gen.values[-1],  # of a run that knows what it was trained on
            "best": max(gen.values),
            "id": known.values[-1],
            "gen exact match": run.at_end("gen", "exact_match"),
            **{
                name: curve_of(table, name).values[-1]
                for name in ("t score", "t score of trees", "parseval", "sparsity")
            },
            "right branching": curve_of(table, "right branching").values[-1],
            "norm": None if norm is None else norm / depth,  # as the paper compares depths
        }

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        """By seed; the best depth is that with the highest mean at the end over the seeds that fitted.

        Of runs that did not nothing is said, and depths are ranked by seeds with which all of them did.
        """
        names = list(self.names.values())
        means = {name: _mean(found.values("general", name)) for name in names}
        best = max(names, key=lambda name: means[name])
        name = target.name.partition(",")[0]
        if target.name == "best depth":
            return found.values("general", best)
        if name == "gen step to fit step":
            return [None if not one["gen step"] or not one["fit step"] else one["gen step"] / one["fit step"]
                    for one in (measured.values for measured in found.arms[best])]  # fmt: skip
        if name == "when it fits":
            return found.values(name, best)
        if target.name.startswith("best depth less"):
            other = names[0] if target.name.endswith("shallowest") else names[-1]
            return [
                None if one is None or two is None else one - two for one, two in found.pairs("general", best, other)
            ]
        key = name.partition(" ranks")[0]
        runs = {name: {one.seed: one.values for one in found.arms[name]} for name in names}
        ranked: list[float | None] = []
        for seed in runs[best]:
            values = {
                name: runs[name][seed][key] for name in names if runs[name].get(seed, {}).get("fit step") is not None
            }
            known = {name: value for name, value in values.items() if value is not None}
            ranked.append(float(max(known, key=known.__getitem__) == best) if len(known) == len(names) else None)
        return ranked

    def draw(self, found: Found) -> Drawing:
        panels = {"first auxiliary where structure and order agree": ID, "where they disagree": GEN}
        curves = {
            title: {arm: [one.run.series[key] for one in ones] for arm, ones in found.arms.items()}
            for title, key in panels.items()
        }
        words = "How often the right auxiliary begins a question, of four, over training steps, mean over seeds."
        return Drawing(over_arms(curves), words, words)


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else -1.0
