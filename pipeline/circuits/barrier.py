"""How high the loss rises on the straight line between the weights of two models.

Singh et al. 2024, "Landscaping Linear Mode Connectivity" (arXiv 2406.16300); the barrier is that of Frankle et al. 2020
(arXiv 1912.05671), section 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.circuits._comparison import TwoModels
from pipeline.circuits.base import Columns, Pairs, Source
from pipeline.config.fields import param
from pipeline.plots.base import Drawing
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor
    from transformers import PreTrainedModel

    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

WHOLE = "all"  # all weights move
ROWS = 2048  # prompts in a forward pass


@dataclass(frozen=True)
class Barrier(TwoModels):
    """Loss and error of (1 - alpha) A + alpha B, from the weights A of a step to those B of another model.

    Both are of an answer's first token, on prompts of each split. `loss above` and `error above` are how far they lie
    above the straight line between the values at both ends; their largest value over alpha is the barrier. With
    `layers` each block moves alone, too, and all that is outside of blocks; with `align` B's channels, heads and
    neurons are first brought into the order that is nearest to A's, which changes nothing of what B computes.
    `distance` is that of the weights that move, `cosine` that of A and B there.
    """

    split: str = param("train,id,ood", "splits that prompts are taken from, where the corpus has them")
    alphas: int = param(11, "points on the line, with both ends", ge=3)
    layers: bool = param(False, "each block moves alone, too")
    align: bool = param(False, "B is permuted to lie as near to A as it can")

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.split.split(","))

    def check_split(self, known: Iterable[str]) -> None:
        known = list(known)
        if odd := [split for split in self.splits if split not in (*known, "train", "id", "ood")]:
            raise ParameterError("split", f"no split {odd[0]!r}; allowed: {', '.join(known)}")
        super().check_split(known)

    def choose(self, source: Source) -> Pairs:
        wanted = [split for split in self.splits if split in source.splits] if source.splits else [self.split]
        return joined({split: source.pairs(split, self.pairs, self.seed) for split in wanted})

    def check(self, model: PreTrainedModel, pairs: Pairs) -> None:
        super().check(model, pairs)
        if self.align:
            from pipeline.circuits._alignment import axes_of
            from pipeline.circuits.hooks import Hooks

            axes_of(Hooks(model))

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        import torch

        self.check_other(hooks.model, shared["other"])
        here, there = (dict(model.named_parameters()) for model in (hooks.model, shared["other"]))
        if self.align:
            from pipeline.circuits._alignment import align, axes_of, reordered

            axes = axes_of(hooks)
            there = reordered(there, axes, align(axes, here, there))
        splits = np.array(pairs.metadata.get("split", [self.split] * len(pairs)))
        rows: list[dict[str, Any]] = []
        for part, names in self._parts(hooks).items():
            one, other = (torch.cat([side[name].flatten().cpu().double() for name in names]) for side in (here, there))
            facts = {"distance": float((one - other).norm()), "cosine": float(torch.cosine_similarity(one, other, 0))}
            line: list[tuple[float, Any, Any]] = []
            for alpha in np.linspace(0, 1, self.alphas):
                moved = {name: torch.lerp(here[name], there[name], float(alpha)) for name in names}
                line.append((float(alpha), *measured(hooks.model, {**here, **moved}, pairs)))
            for split in dict.fromkeys(splits):
                ends = [[values[splits == split].mean() for values in line[i][1:]] for i in (0, -1)]
                for alpha, *values in line:
                    row = {"part": part, "split": str(split), "alpha": alpha, **facts}
                    for name, found, first, last in zip(("loss", "error"), values, *ends):
                        mean = found[splits == split].mean()
                        row |= {name: mean, f"{name} above": mean - (1 - alpha) * first - alpha * last}
                    rows.append(row)
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _parts(self, hooks: Hooks) -> dict[str, list[str]]:
        """The weights that move together, by the name of the part."""
        every = {name: id(weight) for name, weight in hooks.model.named_parameters()}
        found = {WHOLE: list(every)}
        if self.layers:
            taken: set[int] = set()
            for layer, block in enumerate(hooks.blocks):
                own = {id(weight) for weight in block.parameters()} - taken  # a looped block stands here several times
                taken |= own
                if names := [name for name, key in every.items() if key in own]:
                    found[f"block {layer}"] = names
            found["outside"] = [name for name, key in every.items() if key not in taken]
        return found

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.barrier import draw_barrier

        return draw_barrier(table, marks)


def joined(parts: dict[str, Pairs]) -> Pairs:
    """Pairs below each other, prompts padded to the longest; the name of its part stands in the metadata `split`."""
    width = max(part.clean.shape[1] for part in parts.values())
    places = next(part.places for part in parts.values() if part.clean.shape[1] == width)

    def below(name: str, columns: int) -> Any:
        sides = [getattr(part, name)[:, :columns] for part in parts.values()]
        return np.concatenate([np.pad(side, ((0, 0), (0, columns - side.shape[1]))) for side in sides])

    lengths = np.concatenate([part.lengths for part in parts.values()])
    names = [name for name, part in parts.items() for _ in range(len(part))]
    clean, corrupted = below("clean", width), below("corrupted", width)
    answers, wrong = below("answers", 1), below("corrupted_answers", 1)
    return Pairs(clean, corrupted, answers, wrong, {}, lengths, places, {"split": names})


def measured(model: PreTrainedModel, weights: dict[str, Tensor], pairs: Pairs) -> tuple[Any, Any]:
    """Loss and error (N,) of the answers' first tokens, with other weights in the model's place."""
    import torch
    from torch.nn import functional as F

    losses, errors = [], []
    for start in range(0, len(pairs), ROWS):
        rows = slice(start, start + ROWS)
        tokens, answers, ends = (
            torch.from_numpy(np.ascontiguousarray(side)).long().to(model.device)
            for side in (pairs.clean[rows], pairs.answers[rows, 0], pairs.lengths[rows] - 1)
        )
        inputs = {"input_ids": tokens, "use_cache": False}
        logits = torch.func.functional_call(model, weights, (), inputs).logits
        logits = logits[torch.arange(len(tokens), device=tokens.device), ends].float()
        losses.append(F.cross_entropy(logits, answers, reduction="none").cpu().double().numpy())
        errors.append((logits.argmax(-1) != answers).cpu().double().numpy())
    return np.concatenate(losses), np.concatenate(errors)
