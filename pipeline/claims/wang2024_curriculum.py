"""Two-hop facts after addition and comparison, against as many steps on them alone; the tasks of Wang et al. 2024."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pipeline.claims._curves import curves
from pipeline.claims._sizes import DENSE, DENSE_MODEL, PAPER, SMOKE
from pipeline.claims.base import Claim, Found, Paper, Target
from pipeline.plots.base import Drawing
from pipeline.runs.folder import RunFolder

ADDITION, COMPARISON, AFTER, ALONE = "addition", "comparison", "facts after both", "facts alone"
STAGE = 400  # steps of each earlier stage
LAST = 2000  # most of the last one; alone, the facts have those of the earlier stages too
LAST_STEPS, ALL_STEPS = "sooner, by steps on facts", "sooner, by all steps"
ADDED = "{{name: group, group: {}, operation: +, train_fraction: {}, template: a b = c}}"
COMPARED = "{{name: comparison, num_attributes: 1, num_entities: {}, num_values: {}, ood_fraction: 0.2, ratio: {}}}"


@dataclass(frozen=True)
class Wang2024Curriculum(Claim):
    """Steps to generalize on two-hop facts, from weights that know addition and comparison and from fresh ones."""

    paper: ClassVar = Paper("Wang et al. 2024", "2405.15071", "tasks of sections 3 and 4; the stages are ours")
    recipe: ClassVar = "curriculum_modular"
    targets: ClassVar = (
        Target(f"id @ {AFTER}", "not in the paper", low=0.99),
        Target(f"id @ {ALONE}", "1.0", low=0.99),
        Target(LAST_STEPS, "not in the paper: alone over after both, the last stage counted", low=1.1),
        Target(ALL_STEPS, "not in the paper: the same with the steps of the earlier stages", low=1),
    )
    costs: ClassVar = {
        "cpu": "12 runs, 11 minutes on one CPU core",
        "paper": "12 runs of up to 1.5 million steps, on GPUs",
    }

    def arms(self) -> Mapping[str, Mapping[str, str]]:
        steps = {"smoke": (4, 4), "cpu": (STAGE, LAST), "paper": (50_000, 1_400_000)}[self.budget]
        stage, last = steps
        small = {**SMOKE, "global_batch_size": "32", "model.n_embd": "32"} if self.budget == "smoke" else {}
        size = {**PAPER} if self.budget == "paper" else {**DENSE, **DENSE_MODEL, "model.n_layer": "2"}
        size |= small
        shape = {key: value for key, value in size.items() if not key.startswith(("corpus.", "model."))}
        model = {key: value for key, value in size.items() if key.startswith("model.")}
        facts = ", ".join(f"{key.removeprefix('corpus.')}: {value}" for key, value in size.items() if "corpus." in key)
        group, compared = {
            "smoke": (ADDED.format("Z11", 0.5), COMPARED.format(40, 5, 5)),
            "cpu": (ADDED.format("Z31", 0.6), COMPARED.format(100, 10, 18)),
            "paper": (ADDED.format("Z97", 0.4), "{name: comparison}"),
        }[self.budget]
        common = {"eval_steps": "2" if self.budget == "smoke" else "100", "max_eval_samples": "500",
                  "checkpoints": "{powers_of_two: false, every: []}", "stop_when": "never"}  # fmt: skip
        until = {"stop_when": "grokked", "stop_patience": "1"}
        fresh = {**model, "model.dropout": "0.1"}
        base = "{{model_name_or_path: '{{{}}}', vocabulary: tokens, new_embeddings: normal}}"
        found = {
            ADDITION: {"corpus": group, **fresh, "max_steps": str(stage)},
            COMPARISON: {"corpus": compared, "model": base.format(ADDITION), "max_steps": str(stage)},
            AFTER: {"model": base.format(COMPARISON), "max_steps": str(last), **until},
            ALONE: {**fresh, "max_steps": str(2 * stage + last), **until},
        }
        words = {arm: {"corpus": f"{{name: composition, {facts}}}"} for arm in (AFTER, ALONE)}
        return {arm: {**shape, **common, **words.get(arm, {}), **keys} for arm, keys in found.items()}

    def measure(self, run: RunFolder) -> Mapping[str, float | None]:
        ends = {split: run.at_end(split, "exact_match") for split in ("train", "id")}
        return {**ends, "fit_step": run.grok.fit_step, "gen_step": run.grok.gen_step, "last_step": run.last_step}

    def numbers(self, target: Target, found: Found) -> list[float | None]:
        if target.name == LAST_STEPS:
            return found.ratios("gen_step", ALONE, AFTER)
        if target.name == ALL_STEPS:
            before = {one.seed: 0.0 for one in found.arms[AFTER]}
            for arm in (ADDITION, COMPARISON):
                for one in found.arms[arm]:
                    before[one.seed] += one.values["last_step"] or 0
            steps = {one.seed: one.values["gen_step"] for one in found.arms[ALONE]}
            return [
                None if (alone := steps.get(one.seed)) is None or (gen := one.values["gen_step"]) is None
                else alone / (before[one.seed] + gen)
                for one in found.arms[AFTER]
            ]  # fmt: skip
        return super().numbers(target, found)

    def draw(self, found: Found) -> Drawing:
        words = (
            "Exact match on held-out two-hop facts over steps on them: from weights that were trained on addition and "
        )
        words += "comparison before, and from fresh ones; and that of the two earlier stages."
        return curves(found, {arm: (arm, "id") for arm in found.arms}, words)
