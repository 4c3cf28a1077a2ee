"""Embeddings forgotten for a while keep in-context learning beside what is learned of words (Anand et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.axes import StepScale
from pipeline.plots.base import Drawing
from pipeline.plots.seeds import Group, colours, comparison
from pipeline.runs.folder import RunFolder

CHOICE = "forced_choice_unseen"
LAST = 4  # evaluations whose mean is taken: which words are new is drawn each time, and moves one by 0.1
FORGETTING = {"vanilla": "", "active": "every: {every}", "temporary": "every: {every}, until: {until}"}


@dataclass(frozen=True)
class Anand2024DualProcess(Claim):
    """Nouns and adjectives by their place, with embeddings that are never, always or for a while forgotten."""

    paper: ClassVar = Paper("Anand et al. 2024", "2406.00053", "sections 4 and 5")
    recipe: ClassVar = "dual_process"
    targets: ClassVar = (
        Target("unseen @ temporary", "in-context learning of new words stays", low=0.9),
        Target("train @ temporary", "1.0: trained words are known", low=0.99),
        Target("unseen: temporary minus vanilla", "without forgetting it goes again", low=0.05),
        Target("unseen @ active", "it stays, too", low=0.9),
        Target("tail @ active", "rare words are not known any more", high=0.5),
        Target("tail @ temporary", "rare words are known", low=0.9),
    )
    costs: ClassVar = {"cpu": "9 runs of 2,500 steps, 5 minutes on one CPU core", "paper": "9 runs of 62,500 steps"}

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": {
                "max_steps": "4", "eval_steps": "2", "global_batch_size": "16", "corpus.train_rows": "400",
                "corpus.eval_rows": "20",
            },
            "cpu": {"max_steps": "2500", "checkpoints.powers_of_two": "false"},
            "paper": {
                "corpus.vocabulary_size": "10000", "corpus.unseen": "1000", "corpus.train_rows": "2000000",
                "corpus.eval_rows": "2000", "model.n_layer": "6", "model.n_embd": "64", "model.n_inner": "128",
                "learning_rate": "5e-5", "max_steps": "62500", "eval_steps": "500",
            },
        }[self.budget]  # fmt: skip
        steps = {"smoke": (2, 3), "cpu": (100, 1000), "paper": (1000, 20000)}[self.budget]
        found = {}
        for arm, words in FORGETTING.items():
            chosen = words.format(every=steps[0], until=steps[1])
            callbacks = f"embedding_forgetting: {{{chosen}}}, forced_choice: {{}}" if chosen else "forced_choice: {}"
            found[arm] = {"callbacks": f"{{{callbacks}}}", "circuits": "{}", **budget}
        return found

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        ends = {split: run.at_end(split, "exact_match") for split in ("train", "tail", "switch")}
        unseen = run.series[CHOICE].values[-LAST:]
        return {**ends, "unseen": sum(unseen) / len(unseen)}

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if target.name.startswith("unseen: "):
            pairs = found.pairs("unseen", "temporary", "vanilla")
            return [None if one is None or two is None else one - two for one, two in pairs]
        return super().numbers(target, found)

    def draw(self, found: Found) -> Drawing:
        series = {arm: [one.run.series[CHOICE] for one in ones] for arm, ones in found.arms.items()}
        last = max(one.run.last_step for ones in found.arms.values() for one in ones)
        scale = StepScale.over(last, [run for runs in series.values() for run in runs])
        hues = colours(len(series), ordered=False)
        groups = [Group(arm, runs, hue) for (arm, runs), hue in zip(series.items(), hues)]
        words = "How often the right one of two words that were never trained is chosen, over training steps: without "
        words += "forgetting (vanilla), with forgetting to the end (active), and for a while (temporary)."
        return Drawing(comparison(groups, "unseen words, chosen from two", scale), words, words)
