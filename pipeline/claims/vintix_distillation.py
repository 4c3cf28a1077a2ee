"""A model that imitates agents which learn gets better in context, its weights as they are (algorithm distillation)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.plots.returns import by_episode
from pipeline.runs.folder import RunFolder

LEARNING, EXPERT = "histories of learning", "the experts' episodes alone"


@dataclass(frozen=True)
class VintixDistillation(Claim):
    """What a model gains from episode to episode of one context, with goals that no history of its training had.

    The control imitates the ends of the same agents' learning, when they know where to go: Laskin et al. 2022 (arXiv
    2210.14215) call it expert distillation.
    """

    paper: ClassVar = Paper(
        "Polubarov et al. 2025", "2501.19400", "section 5; robots there, here the Dark Room before it"
    )
    recipe: ClassVar = "dark_room"
    targets: ClassVar = (
        Target(f"unseen_rise @ {LEARNING}", "returns rise over episodes, to those of the agents or near", low=0.1),
        Target(f"unseen_last @ {LEARNING}", "near 1 on trained tasks", low=0.5),
        Target(f"train_rise @ {LEARNING}", "returns rise over episodes", low=0.2),
        Target(f"unseen_rise @ {EXPERT}", "flat: it does not explore (Laskin et al. 2022)", high=0.1),
        Target("rises more than the control", "not there in Vintix; so it does in Laskin et al. 2022", low=0.1),
    )
    costs: ClassVar = {
        "cpu": "6 runs of 1,500 steps, 8 minutes on one CPU core",
        "paper": "6 runs of 100,000 steps in a room of nine by nine, on a GPU",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": {"corpus.size": "3", "corpus.steps": "3", "corpus.episodes": "2", "corpus.learning_episodes": "8",
                      "corpus.histories": "60", "corpus.test_histories": "12", "global_batch_size": "16",
                      "max_steps": "2", "eval_steps": "2", "model.n_layer": "1",
                      "callbacks": "{in_context_return: {agents: 4}}"},
            "cpu": {"max_steps": "1500", "eval_steps": "750", "save_steps": "10000"},
            "paper": {"corpus.size": "9", "corpus.steps": "20", "corpus.episodes": "5",
                      "corpus.learning_episodes": "200", "corpus.histories": "20000", "model.n_embd": "512",
                      "model.n_head": "8", "model.n_positions": "400", "max_steps": "100000", "eval_steps": "5000",
                      "global_batch_size": "64", "learning_rate": "4e-4", "warmup_steps": "10000"},
        }[self.budget]  # fmt: skip
        shared = {"checkpoints.every": "[]", "checkpoints.powers_of_two": "false", **budget}
        return {LEARNING: shared, EXPERT: {**shared, "corpus.order": "expert"}}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        found: dict[str, float | None] = {}
        for goals in ("train", "unseen"):
            curve = returns(run, goals)
            found |= {f"{goals}_first": curve[0], f"{goals}_last": curve[-1], f"{goals}_rise": curve[-1] - curve[0]}
        return found

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if target.name == "rises more than the control":
            pairs = found.pairs("unseen_rise", LEARNING, EXPERT)
            return [None if one is None or other is None else one - other for one, other in pairs]
        return super().numbers(target, found)

    def draw(self, found: Found) -> Drawing:
        words = "Return by episode in one context after training, 1 being the most there can be, with goals that were "
        words += "never trained; each seed thin and their mean thick."
        return Drawing(
            by_episode({arm: [returns(one.run, "unseen") for one in ones] for arm, ones in found.arms.items()}),
            words,
            words,
        )


def returns(run: RunFolder, goals: str) -> list[float]:
    """What is gained in each episode at the end of a run."""
    keys = [f"return_{goals}_{number}" for number in range(1, run.recipe.corpus.as_dict()["episodes"] + 1)]
    return [run.series[key].values[-1] for key in keys]
