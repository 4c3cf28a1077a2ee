"""Leaving out parts of the prompts helps where there are few, and most at random rates (Qi et al. 2022, figure 2)."""

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
from pipeline.runs.grokking import match_key

PLAIN = "plain"
ARMS = {
    PLAIN: "{}",
    "bernoulli": "{span_drop: {p: 0.1, rate: bernoulli}}",
    "beta": "{span_drop: {p: 0.1}}",
}


@dataclass(frozen=True)
class Qi2022Spandrop(Claim):
    """FindCats from few strings: the best accuracy on new ones without SpanDrop, with it, and with Beta-SpanDrop."""

    paper: ClassVar = Paper("Qi et al. 2022", "2208.02169", "section 4.1, figure 2: 500 strings of 300 letters")
    recipe: ClassVar = "findcats"
    targets: ClassVar = (
        Target("gain of bernoulli", "+0.15 (0.775 against 0.625)", low=0.05),
        Target("gain of beta", "+0.227 (0.852 against 0.625)", low=0.05),
        Target("train @ plain", "1.0: the strings are learned by heart", low=0.99),
    )
    costs: ClassVar = {
        "cpu": "9 runs of 800 steps, 4 minutes on one CPU core",
        "paper": "9 runs of 100,000 steps on a GPU",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": {
                "max_steps": "4", "eval_steps": "2", "corpus.train_size": "60", "corpus.test_size": "50",
                "model.n_layer": "1", "model.n_embd": "16", "model.n_head": "2", "checkpoints.every": "[]",
            },
            "cpu": {},
            "paper": {
                "max_steps": "100000", "eval_steps": "1000", "corpus.length": "300", "corpus.train_size": "500",
                "corpus.test_size": "10000", "model.n_layer": "3", "model.n_embd": "768", "model.n_head": "12",
                "model.n_positions": "512", "learning_rate": "1e-5", "global_batch_size": "32",
            },
        }[self.budget]  # fmt: skip
        return {arm: {"collator": collator, "circuits": "{}", **budget} for arm, collator in ARMS.items()}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        return {
            "train": run.at_end("train", "exact_match"),
            "id": run.at_end("id", "exact_match"),
            "best": max(run.series[match_key("id")].values),
        }

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if target.name.startswith("gain of "):
            arm = target.name.removeprefix("gain of ")
            return [a - b for a, b in found.pairs("best", arm, PLAIN) if a is not None and b is not None]
        return super().numbers(target, found)

    def draw(self, found: Found) -> Drawing:
        runs = {arm: [one.run.series[match_key("id")] for one in ones] for arm, ones in found.arms.items()}
        scale = StepScale.over(
            max(one.run.last_step for ones in found.arms.values() for one in ones),
            [series for group in runs.values() for series in group],
        )
        groups = [Group(arm, group, hue) for (arm, group), hue in zip(runs.items(), HUES)]
        words = "Accuracy on new strings over training steps, by what is left out of the strings that are trained."
        return Drawing(comparison(groups, "id", scale), words, words)
