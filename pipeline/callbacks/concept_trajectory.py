"""What a model draws of two concepts while it learns, and what it could draw if it were asked otherwise.

Park et al. 2024, "Emergence of Hidden Capabilities" (arXiv 2406.19370), sections 4 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.callbacks.base import Callback, Trainer
from pipeline.config.fields import param
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.data.asked import Concepts

CLASSES = {"00": (0, 0), "01": (0, 1), "10": (1, 0), "11": (1, 1)}
OVER_PROMPTING, STEERING = (1.25, 1.5, 2.0, 3.0), (0.5, 1.0, 2.0, 3.0)


@dataclass
class ConceptTrajectory(Callback):
    """Draws all four combinations of two concepts, and logs where in the space of concepts they lie.

    `concept_<class>_<concept>` is the probability of the tokens that show its value 1, over that of those that show
    either value, in the mean over prompts. The combination 11 is never trained: `concept_11_naive` is the share of its
    prompts at which this is above a half for both. The others are shares of what can be elicited of the same prompts by
    an intervention: `..._over_prompting`
    moves the embeddings of both words beyond their place, away from those of the other value, by a factor;
    `..._arithmetic` puts 01 + 10 - 00 in the place of the states of the prompt after a block; `..._steering` adds to
    these states what the concepts differ by in the mean of the trained combinations, times a factor. The best factor
    on half of the prompts is taken, and the other half is measured.

    Steps are spaced evenly in their square root. It needs whole weights; nothing is logged of a corpus without
    concepts, as concept_grid has them.
    """

    density: float = param(2.0, "measurements for each unit of the square root of the step", gt=0)
    after: int = param(0, "block after which states are changed, from 0", ge=0)

    def attach(self, trainer: Trainer) -> None:
        from pipeline.callbacks._sharded import check_whole

        check_whole(trainer, "concept_trajectory")
        if trainer.recipe.model.rewords:
            raise ParameterError("callbacks.concept_trajectory", "needs each word of the corpus as one token")
        if self.after >= (blocks := len(_blocks(trainer.accelerator.unwrap_model(trainer.model)))):
            raise ParameterError("callbacks.concept_trajectory.after", f"{self.after} is no block of {blocks}")
        super().attach(trainer)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        import torch

        from pipeline.callbacks._probe import evaluated
        from pipeline.data.asked import concepts_of

        step = state.global_step
        before, now = (math.floor(self.density * math.sqrt(at)) for at in (step - 1, step))
        if now == before:
            return
        concepts = concepts_of(self.trainer.recipe, self.trainer.args.device)
        if concepts is not None:
            with evaluated(self.trainer) as model, torch.no_grad():
                self.trainer.log(_logs(concepts, self._shown(model, concepts)))

    def _shown(self, model: Any, concepts: Concepts) -> dict[str, Tensor]:
        """For prompts of each combination, and of 11 by each intervention, to what degree both concepts are 1, (n, 2).

        The second is asked for after the greedy drawing of the first.
        """
        import torch

        embedding = model.get_input_embeddings()
        found = {name: embedding(concepts.prompts[values]) for name, values in CLASSES.items()}
        for factor in OVER_PROMPTING:
            changed = found["11"].clone()
            for place in concepts.places:
                low, high = found["00"][:, place], found["11"][:, place]
                changed[:, place] = low + factor * (high - low)
            found[f"over_prompting {factor}"] = changed
        found["arithmetic"] = found["11"]
        found |= {f"steering {factor}": found["11"] for factor in STEERING}
        names, each = list(found), len(found["11"])
        row = {name: slice(each * i, each * (i + 1)) for i, name in enumerate(names)}
        length = found["11"].shape[1]

        def change(module: Any, inputs: Any, output: Any) -> Any:
            states = (output[0] if isinstance(output, tuple) else output).clone()
            of = {name: states[row[name], :length] for name in CLASSES}
            states[row["arithmetic"], :length] = of["01"] + of["10"] - of["00"]
            both = (of["01"] + of["10"] - 2 * of["00"]).mean(0)
            for factor in STEERING:
                states[row[f"steering {factor}"], :length] = of["11"] + factor * both
            return (states, *output[1:]) if isinstance(output, tuple) else states

        inputs_NTD = torch.cat(list(found.values()))
        shown = []
        handle = _blocks(model)[self.after].register_forward_hook(change)
        try:
            for values in concepts.tokens:
                logits_NV = model(inputs_embeds=inputs_NTD, use_cache=False).logits[:, -1].float()
                low, high = (logits_NV[:, tokens].logsumexp(1) for tokens in values)
                shown.append(torch.sigmoid(high - low).cpu().double())
                inputs_NTD = torch.cat([inputs_NTD, embedding(logits_NV.argmax(1))[:, None]], 1)
        finally:
            handle.remove()
        return dict(zip(names, torch.stack(shown, 1).split(each)))


def _logs(concepts: Concepts, shown: Mapping[str, Tensor]) -> dict[str, float]:
    logs = {
        f"concept_{name}_{concept}": float(shown[name][:, i].mean())
        for name in CLASSES
        for i, concept in enumerate(concepts.names)
    }
    right = {name: (part > 0.5).all(1).cpu().double() for name, part in shown.items()}
    logs["concept_11_naive"] = float(right["11"].mean())
    logs["concept_11_arithmetic"] = float(right["arithmetic"].mean())
    for name, factors in {"over_prompting": OVER_PROMPTING, "steering": STEERING}.items():
        tried = [right[f"{name} {factor}"] for factor in factors]
        half = len(tried[0]) // 2
        best = max(tried, key=lambda one: float(one[:half].sum()))
        logs[f"concept_11_{name}"] = float(best[half:].mean())
    return logs


def _blocks(model: Any) -> Any:
    """The blocks of a model, in the order in which they run."""
    import torch

    return next(part for part in model.base_model.modules() if isinstance(part, torch.nn.ModuleList))
