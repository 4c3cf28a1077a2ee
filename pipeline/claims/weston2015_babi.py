"""Which tasks of bAbI a small GPT learns from a thousand questions each (Weston et al. 2015, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._curves import curves
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder

SHORT = (1, 4, 15, 17, 18, 19, 20)  # tasks whose stories are short enough for a CPU
ALONE = {"smoke": (4, 15), "cpu": (4, 15, 18, 20), "paper": tuple(range(1, 21))}  # tasks that are trained alone, too
TOLD = (15, 18)  # and of these, the ones that are also answered after the facts that support the answer
ARM = "joint"
PASSED = 0.95


@dataclass(frozen=True)
class Weston2015Babi(Claim):
    """Tasks 1, 4, 15 and 17 to 20 together (all twenty at the paper's budget), and some of them alone.

    Tasks of two facts are also trained alone with the facts that support the answer written out before it; then these
    have to be right, too.
    """

    paper: ClassVar = Paper(
        "Weston et al. 2015", "1502.05698", "section 3; transformers in Dehghani et al. 2018, table 1"
    )
    recipe: ClassVar = "babi"
    targets: ClassVar = (
        Target(f"task_20 @ {ARM}", "passed by all models", low=PASSED),
        Target(f"task_4 @ {ARM}", "passed by most models", low=PASSED),
        Target(f"task_17 @ {ARM}", "not passed by plain transformers", high=PASSED),
        Target(f"task_18 @ {ARM}", "not passed by plain transformers", high=PASSED),
        Target(f"task_19 @ {ARM}", "not passed by plain transformers", high=PASSED),
        Target("task_4 @ task 4 alone", "passed by most models", low=PASSED),
        Target("gained alone", "single 0.78, joint 0.73 in the mean over tasks (Dehghani et al. 2018)", low=0.05),
        Target(
            "gained by facts that are written out", "0.93 with, 0.49 without supporting facts, other models", low=0.1
        ),
        Target("lost in length", "not there: stories of twice the length", low=0.1),
        Target("lost in paths", "not there: three steps in place of two", low=0.1),
    )
    costs: ClassVar = {
        "cpu": "3 runs of 5,000 steps, 12 minutes on one CPU core",
        "paper": "3 runs of 50,000 steps over all twenty tasks, on a GPU",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        budget = {
            "smoke": {"corpus.questions": "20", "corpus.test_questions": "5", "max_steps": "2",
                      "eval_steps": "2", "global_batch_size": "16", "model.n_layer": "1"},
            "cpu": {"max_steps": "5000", "eval_steps": "500", "model.n_embd": "64", "model.dropout": "0",
                    "learning_rate": "2e-3", "warmup_steps": "100", "save_steps": "10000"},
            "paper": {"corpus.tasks": str(list(range(1, 21))), "corpus.test_questions": "1000", "model.n_layer": "4",
                      "model.n_positions": "640", "max_steps": "50000"},
        }[self.budget]  # fmt: skip
        budget = {"checkpoints.every": "[]", "checkpoints.powers_of_two": "false", **budget}
        steps = {"cpu": {"max_steps": "1500"}}.get(self.budget, {})
        found = {ARM: budget}
        for task in ALONE[self.budget]:
            for name, answer in {f"task {task} alone": "plain", f"task {task}, facts first": "facts"}.items():
                if answer == "plain" or task in TOLD:
                    found[name] = {**budget, "corpus.tasks": f"[{task}]", "corpus.answer": answer, **steps}
        return found

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        splits = ("train", "id", "ood_length", "ood_names", "ood_path", *(f"task_{task}" for task in range(1, 21)))
        found = {split: run.at_end(split, "exact_match") for split in splits}
        if len(of := run.resolved["corpus"]["tasks"]) == 1:
            found[f"task_{of[0]}"] = found["id"]
        tasks = [found[f"task_{task}"] for task in range(1, 21)]
        known = [match for match in tasks if match is not None]
        return {**found, "tasks": float(len(known)), "passed": float(sum(match >= PASSED for match in known))}

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        alone = [(task, f"task {task} alone") for task in ALONE[self.budget]]
        if target.name == "gained alone":
            return _gained(found, [(task, arm, ARM) for task, arm in alone])
        if target.name.startswith("gained by facts"):
            return _gained(found, [(task, f"task {task}, facts first", arm) for task, arm in alone if task in TOLD])
        # Of the tasks at these sizes, 1 alone has longer stories, and 18 and 19 have longer paths.
        lost = {"lost in length": (("task_1",), "ood_length"), "lost in paths": (("task_18", "task_19"), "ood_path")}
        if target.name not in lost:
            return super().numbers(target, found)
        tasks, split = lost[target.name]
        drops: list[float | None] = []
        for one in found.arms[ARM]:
            parts = [one.values[task] for task in tasks]
            end = one.values[split]
            known = [part for part in parts if part is not None]
            drops.append(None if end is None or not known else sum(known) / len(known) - end)
        return drops

    def draw(self, found: Found) -> Drawing:
        words = "Exact match over training steps on held-out questions, by task; all tasks are trained together."
        return curves(found, {f"task {task}": (ARM, f"task_{task}") for task in SHORT}, words)


def _gained(found: Found, tasks: Sequence[tuple[int, str, str]]) -> list[float | None]:
    """How much better tasks are done in one arm than in another, by seed, in the mean over (task, arm, other arm)."""
    gains = [[None if one is None or two is None else one - two for one, two in found.pairs(f"task_{task}", arm, other)]
             for task, arm, other in tasks]  # fmt: skip
    return [None if None in of_seed else sum(filter(None, of_seed)) / len(tasks) for of_seed in zip(*gains)]
