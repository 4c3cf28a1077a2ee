"""A model that removes the words that feedback names teaches itself to leave them out (Scheurer et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._curves import curves
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import match_key

REFINER, TAUGHT = "refiner", "imitation"
TRAINED, LONGEST = 5, 10  # most nouns of trained sentences, and of all


@dataclass(frozen=True)
class Scheurer2023Ilf(Claim):
    """Exact match of a refiner by nouns in a sentence and nouns to remove, and of a writer before and after stage two.

    The writer copies all that it is given; in stage two it imitates its own drafts as the refiner, which it is too, has
    made them after feedback.
    """

    paper: ClassVar = Paper(
        "Scheurer et al. 2023", "2303.16755", "sections 3 and 4.1; theirs are GPT-3, not trained for it"
    )
    recipe: ClassVar = "word_removal"
    targets: ClassVar = (
        Target(f"r1 @ {REFINER}", "the largest models do it, smaller ones do not", low=0.9),
        Target(f"r3 @ {REFINER}", "lower than for one word", low=0.9),
        Target("lost with more words to remove", "accuracy falls with them", low=0.02),
        Target("lost in longer sentences", "not there: more nouns than are trained", low=0.1),
        Target("lost with unseen nouns", "not there", low=0.1),
        Target(f"drafts @ {TAUGHT}", "not there: the writer has never been told", high=0.4),
        Target(f"end @ {TAUGHT}", "not there", low=0.9),
        Target("gained by stage two", "> 0: refinements and what imitates them are preferred to drafts", low=0.3),
    )
    costs: ClassVar = {
        "cpu": "6 runs of 900 and 200 steps, 6 minutes on one CPU core",
        "paper": "6 runs of 20,000 steps of 50 nouns and models eight layers deep, on a GPU",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget: dict[str, str] = {}
        stage: dict[str, str] = {}
        if self.budget == "smoke":
            budget = {"max_steps": "2", "eval_steps": "2", "corpus.rows": "20", "corpus.test_rows": "4",
                      "global_batch_size": "16", "model.n_layer": "1"}  # fmt: skip
            stage = {"max_steps": "2", "eval_steps": "2", "global_batch_size": "8"}
        elif self.budget == "paper":
            budget = {"max_steps": "20000", "corpus.nouns": "50", "model.n_layer": "8", "model.n_embd": "512",
                      "model.n_head": "8", "learning_rate": "3e-4", "warmup_steps": "1000"}  # fmt: skip
            stage = {"max_steps": "2000", "eval_steps": "100"}
        shared = {key: value for key, value in budget.items() if key.startswith("corpus.")}
        keep = "all" if self.budget == "smoke" else "right"  # what has seen two batches writes nothing that is right
        return {
            REFINER: budget,
            TAUGHT: {
                "corpus.tasks": "[wanted]", **shared,
                "model": f"{{model_name_or_path: '{{{REFINER}}}', vocabulary: tokens}}",
                "objective": f"{{name: language_feedback, keep: {keep}}}", "global_batch_size": "64",
                "max_steps": "200", "eval_steps": "50", "learning_rate": "1e-3", "warmup_steps": "20", **stage,
            },
        }  # fmt: skip

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        match = run.series[match_key("id")].values
        found: dict[str, float | None] = {"drafts": match[0], "end": run.at_end("id", "exact_match")}
        cells = {(k, r): run.at_end(f"k{k}_r{r}", "exact_match") for k in range(1, LONGEST + 1) for r in (1, 2, 3)}
        found |= {f"k{k}_r{r}": value for (k, r), value in cells.items() if r <= k}

        def mean(chosen: list[float | None]) -> float | None:
            known = [value for value in chosen if value is not None]
            return sum(known) / len(known) if known else None

        for r in (1, 2, 3):
            found[f"r{r}"] = mean([cells[k, r] for k in range(3, TRAINED + 1)])
        found["trained"] = mean([cells[k, r] for k, r in cells if k <= TRAINED])
        found["longer"] = mean([cells[k, r] for k, r in cells if k > TRAINED])
        found["ood_words"] = run.at_end("ood_words", "exact_match")
        return found

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        pairs = {
            "lost with more words to remove": (REFINER, "r1", "r3"),
            "lost in longer sentences": (REFINER, "trained", "longer"),
            "lost with unseen nouns": (REFINER, "trained", "ood_words"),
            "gained by stage two": (TAUGHT, "end", "drafts"),
        }
        if target.name not in pairs:
            return super().numbers(target, found)
        arm, more, less = pairs[target.name]
        return [
            None if one is None or other is None else one - other
            for one, other in zip(found.values(more, arm), found.values(less, arm))
        ]

    def draw(self, found: Found) -> Drawing:
        words = (
            "Exact match over training steps: of the refiner on sentences of three, five and ten nouns of which one "
        )
        words += "or three are removed, ten being more than are trained."
        return curves(found, {f"k{k}_r{r}": (REFINER, f"k{k}_r{r}") for k in (3, 5, 10) for r in (1, 3)}, words)
