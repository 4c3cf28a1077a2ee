"""Points of a cube that a language model divides stand for sentences of its grammar (Celotti et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.circuits.latent_space import SAMPLED, SOBOL
from pipeline.circuits.tables import by_step
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.axes import StepScale
from pipeline.plots.base import Drawing
from pipeline.plots.latent_space import curve, values_of
from pipeline.plots.seeds import Group, comparison
from pipeline.plots.style import HUES
from pipeline.runs.folder import RunFolder

ARM = "half of the sentences"
VOLUMES = ("train", "id", "neither", "no sentence")


@dataclass(frozen=True)
class Celotti2020Ariel(Claim):
    """Boxes of sentences by arithmetic coding: their volumes over training, and what evenly spread points stand for.

    Half of the sentences of the grammar are held out of training or in no split at all.
    """

    paper: ClassVar = Paper("Celotti et al. 2020", "2003.13600", "abstract and section 4; a grammar of their kind")
    recipe: ClassVar = "grammar"
    targets: ClassVar = (
        Target(f"reconstruction @ {ARM}", "1.0: the code loses nothing", low=1),
        Target(f"valid_at_start @ {ARM}", "not there: before training", high=0.01),
        Target(f"valid @ {ARM}", "nearly all: random points stand for grammatical sentences", low=0.9),
        Target(f"unique @ {ARM}", "many different ones", low=0.4),
        Target("unique: points over samples", "not there: even spread against sampling", low=1.02),
        Target("coverage of id: points over samples", "not there: even spread against sampling", low=1.02),
        Target(f"id_per_train @ {ARM}", "not there: volume of an unseen sentence by that of a trained one", low=0.5),
    )
    costs: ClassVar = {
        "cpu": "3 runs of 400 steps, 3 minutes on one CPU core",
        "paper": "3 runs of 20,000 steps on all words of the grammar",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        words = ("corpus.things", "corpus.colours", "corpus.prepositions", "corpus.train_size", "corpus.test_size")
        budget = {
            "smoke": {**dict(zip(words, ("3", "2", "1", "60", "20"))), "max_steps": "2", "eval_steps": "2",
                      "global_batch_size": "16", "model.n_layer": "1", "circuits.latent_space.points": "32"},
            "cpu": {},
            "paper": {**dict(zip(words, ("10", "8", "5", "6000", "3000"))), "max_steps": "20000", "eval_steps": "1000",
                      "model.n_layer": "4", "model.n_embd": "256", "circuits.latent_space.points": "8192"},
        }[self.budget]  # fmt: skip
        return {ARM: budget}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        tables = by_step(run.path, "latent_space")
        first, last = (tables[step] for step in (min(tables), max(tables)))
        volume, sizes = values_of(last, "volume"), run.corpus["sizes"]
        found: dict[str, float | None] = {
            "reconstruction": min(values_of(last, "reconstruction").values()),
            "valid_at_start": values_of(first, "valid")[SOBOL],
            "id_per_train": volume["id"] / sizes["id"] / (volume["train"] / sizes["train"]),
            **{f"volume_{name.replace(' ', '_')}": volume[name] for name in VOLUMES},
        }
        for measure in ("valid", "unique", "coverage of id"):
            by_way = values_of(last, measure)
            found |= {measure: by_way[SOBOL], f"{measure}, sampled": by_way[SAMPLED]}
        return found

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        measure, is_ratio, _ = target.name.partition(": points over samples")
        if not is_ratio:
            return super().numbers(target, found)
        both = zip(found.values(measure, ARM), found.values(f"{measure}, sampled", ARM))
        return [one / other if one is not None and other else None for one, other in both]

    def draw(self, found: Found) -> Drawing:
        runs = [by_step(one.run.path, "latent_space") for one in found.arms[ARM]]
        groups = [
            Group(name, [curve(tables, "volume", name) for tables in runs], hue) for name, hue in zip(VOLUMES, HUES)
        ]
        scale = StepScale.over(
            max(one.run.last_step for one in found.arms[ARM]), [run for g in groups for run in g.runs]
        )
        figure = comparison(groups, None, scale)
        figure.axes[0].set_ylabel("share of the cube")
        words = (
            "Volume of the boxes of trained sentences, of held-out ones (id), of the rest of the grammar (neither), "
        )
        words += "and of strings that are no sentence, over training steps."
        return Drawing(figure, words, words)
