"""Steps of a chain tell something of the right answer up to the first wrong one, and nothing after it.

Ton et al. 2024, "Understanding Chain-of-Thought in LLMs through Information Theory" (arXiv 2411.11984), section 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.circuits.information_gain import REST
from pipeline.circuits.tables import by_step
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.plots.information_gain import CHAINS, PANELS, by_step_of_chain, profile
from pipeline.runs.folder import RunFolder

ARM = "conditional"
FAULTY = 3  # the step that goes wrong in the recipe
WAYS = {"gain": "gain", "rest": REST, "outcome": "outcome", "completed": "completed"}


@dataclass(frozen=True)
class Ton2024InformationGain(Claim):
    """Chains of five steps whose third goes wrong by a rule: what steps gain, and which ones are flagged.

    By the rule every completion goes wrong, and an outcome reward knows one step before that it will; then neither
    says which step is the wrong one.
    """

    paper: ClassVar = Paper("Ton et al. 2024", "2411.11984", "section 5.1, LLM 3; theirs are whole numbers and a GPT-2")
    recipe: ClassVar = "vector_chain"
    targets: ClassVar = (
        Target(
            f"loss_end @ {ARM}", "the supervisor reads the answer off whole right chains: loss of all of it", high=0.5
        ),
        Target(f"gain_before @ {ARM}", "> 0: step 2 of wrong chains", low=0.25),
        Target(f"gain_after @ {ARM}", "<= 0: steps 3 to 5 of wrong chains together", high=0.05),
        Target(f"gain_after_control @ {ARM}", "> 0: steps 3 to 5 of right chains together", low=0.25),
        Target(f"accuracy_gain @ {ARM}", "0.96: steps of wrong chains told right by their own gain", low=0.9),
        Target(f"accuracy_rest @ {ARM}", "not there: by all that is gained from a step on", low=0.9),
        Target(f"accuracy_outcome @ {ARM}", "0.77", high=0.85),
        Target(f"accuracy_completed @ {ARM}", "0.60", high=0.65),
        Target(f"false_rest @ {ARM}", "0.06 of right steps flagged by their own gain", high=0.1),
        Target(f"false_outcome @ {ARM}", "0.54 of right steps flagged", low=0.4),
    )
    costs: ClassVar = {
        "cpu": "3 runs of 1,500 steps, 6 minutes on one CPU core",
        "paper": "3 runs of 50,000 steps of a GPT-2, on GPUs",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": {"corpus.train_size": "60", "corpus.test_size": "20", "max_steps": "2", "eval_steps": "2",
                      "global_batch_size": "16", "model.n_layer": "1"},
            "cpu": {},
            "paper": {"corpus.modulus": "null", "corpus.train_size": "100000", "model.n_layer": "12",
                      "model.n_embd": "768", "model.n_head": "12", "model.n_positions": "256", "max_steps": "50000",
                      "learning_rate": "1e-4", "warmup_steps": "2000", "eval_steps": "2000"},
        }[self.budget]  # fmt: skip
        return {ARM: budget}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        tables = by_step(run.path, "information_gain")
        table = tables[max(tables)]
        wrong, right = (profile(table, "gain", kind) for kind in ("wrong", "right"))
        after = range(FAULTY, 6)

        def total(gains: Mapping[int, float]) -> float | None:
            return sum(gains[step] for step in after) if gains else None

        found: dict[str, float | None] = {
            "loss_end": profile(table, "loss", "right").get(5),
            "gain_before": wrong.get(FAULTY - 1),
            "gain_after": total(wrong),
            "gain_after_control": total(right),
        }
        for key, way in WAYS.items():
            for name, measure in {"accuracy": "accuracy", "true": "wrong steps flagged", "false": "right steps flagged",
                                  "control": "right chains flagged"}.items():  # fmt: skip
                found[f"{name}_{key}"] = profile(table, measure, way).get(-1)
        return found

    def draw(self, found: Found) -> Drawing:
        tables = [by_step(one.run.path, "information_gain") for one in found.arms[ARM]]
        last = [every[max(every)] for every in tables]
        profiles = {
            measure: {kind: runs for kind in CHAINS if all(runs := [profile(one, measure, kind) for one in last])}
            for measure in PANELS
        }
        words = "What each step of a chain gains, how likely a right end is by an outcome reward, and how many "
        words += "completions end right; of chains that stay right, and of those whose third step goes wrong by a rule."
        return Drawing(by_step_of_chain(profiles), words, words)
