"""One direction that tells two classes apart: found in several ways, and swapped or taken out, place by place.

Tigges et al. 2023, "Linear Representations of Sentiment in Large Language Models" (arXiv 2310.15154), sections 2 to 4;
DAS: Geiger et al. 2023 (arXiv 2303.02536).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.circuits._directions import MEAN, RANDOM, Floats, directions
from pipeline.circuits.base import Analysis, Columns, Pairs, Source
from pipeline.config.fields import param
from pipeline.plots.base import Drawing
from pipeline.utils.draws import Draws
from pipeline.utils.errors import MismatchError

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor
    from transformers import PreTrainedModel

    from pipeline.circuits._batch import Batch
    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

DAS = "DAS"
ALL = "all"  # places
CLASS = "class"  # the metadata that says which class a clean prompt is of
NAMES = ("measure", "layer", "position", "place", "method", "other", "value")


@dataclass(frozen=True)
class Directions(Analysis):
    """Along which directions of the residual stream two classes of prompts differ, before each block and at the end.

    At each layer and position one is found, on half of the prompts, as the difference of the class means, between the
    centres of two clusters (k-means), as the first principal component (PCA), and as the weights of a logistic
    regression; at `position` also as the one whose coordinate, swapped, moves the answer most (DAS). `cosine` is
    between two of them, `separates` the share of the other prompts that the middle between the class means tells
    apart. The rest is of the other prompts too. `patched` is the share of the difference between clean and corrupted
    run in the logits of both answers that comes back where the coordinate along the direction alone is that of the
    clean run, `flipped` the share of pairs in which the clean answer then wins; `removed` is the share of the accuracy
    above one half that is lost where that coordinate is the mean over prompts. Each is at all positions of a place,
    such as all commas, or at `all` positions, at each along its own direction.
    """

    pairs: int = param(300, "most prompts, half of them of each class", ge=8)
    classes: tuple[str, ...] = param((), "two answers, by their first word that differs; []: the most frequent two")
    position: int = param(-1, "of a prompt, at which DAS looks for a direction; -1 is the last one")
    das_steps: int = param(40, "of DAS; 0: without it", ge=0)
    das_rate: float = param(0.05, "learning rate of DAS, with Adam", gt=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {"pairs": 8, "das_steps": 1}
    same_length: ClassVar[bool] = True
    needs_float32: ClassVar[bool] = True

    def choose(self, source: Source) -> Pairs:
        return source.classes(self.split, self.pairs, self.seed, self.classes)

    def check(self, model: PreTrainedModel, pairs: Pairs) -> None:
        super().check(model, pairs)
        counts = {name: pairs.metadata[CLASS].count(name) for name in pairs.metadata.get(CLASS, ())}
        if len(counts) != 2 or min(counts.values()) < 4:
            words = ", ".join(f"{count} of {name}" for name, count in counts.items())
            raise MismatchError(f"Directions looks at two classes, of 4 prompts at least; here are {words or 'none'}")
        width = pairs.clean.shape[1]
        if not -width <= self.position < width:
            raise MismatchError(f"position {self.position} is none of the {width} that the prompts have")

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        label = np.array(pairs.metadata[CLASS])
        first = label == label[0]
        # Every other prompt of each class, so that both halves have as many of each.
        fitted = np.zeros(len(label), bool)
        for of in (np.flatnonzero(first), np.flatnonzero(~first)):
            fitted[of[::2]] = True
        trial = Trial(hooks, pairs, fitted)
        rows: list[tuple[str, int, int, str, str, str, float]] = []
        for layer in range(hooks.n_layer + 1):
            states = trial.states(layer)
            found = self._found(trial, layer, states, first, fitted)
            for position, place in enumerate(pairs.places):
                here = {name: vectors[position] for name, vectors in found.items()}
                known = [name for name in here if name != RANDOM and here[name].any()]
                for one, other in combinations(known, 2):
                    rows.append(("cosine", layer, position, place, one, other, float(here[one] @ here[other])))
                for name in known:
                    share = _separates(states[:, position].cpu().double().numpy() @ here[name], first, fitted)
                    rows.append(("separates", layer, position, place, name, "", share))
            for place, at in _groups(pairs.places).items():
                for name, vectors in found.items():
                    only = np.where(at[:, None], vectors, 0.0)
                    if only.any():
                        for measure, value in trial.effects(layer, only, states).items():
                            rows.append((measure, layer, -1, place, name, "", value))
        rows.append(("accuracy", -1, -1, ALL, "", "", trial.accuracy))
        return {name: [row[i] for row in rows] for i, name in enumerate(NAMES)}

    def _found(
        self, trial: Trial, layer: int, states: Tensor, first: npt.NDArray[np.bool_], fitted: npt.NDArray[np.bool_]
    ) -> dict[str, Floats]:
        """Directions at each position, (T, D), by how they were found; those of DAS are 0 at all positions but one."""
        chosen = states[fitted].cpu().double().numpy()
        each = [directions(chosen[:, at], first[fitted], self.seed + at) for at in range(chosen.shape[1])]
        found = {name: np.stack([one[name] for one in each]) for name in each[0]}
        if self.das_steps:
            at = self.position % len(each)
            found[DAS] = np.zeros_like(found[MEAN])
            start = Draws(self.seed, "DAS", layer).uniform(chosen.shape[2]) - 0.5
            vector = trial.swapped_best(layer, at, states, start, self.das_steps, self.das_rate)
            found[DAS][at] = vector * (-1 if vector @ found[MEAN][at] < 0 else 1)
        return found

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.directions import draw_directions

        return draw_directions(table, marks)


def _separates(shade: Floats, first: npt.NDArray[np.bool_], fitted: npt.NDArray[np.bool_]) -> float:
    """The share of prompts that were not fitted that lie on their class's side of the middle between class means."""
    middle = (shade[fitted & first].mean() + shade[fitted & ~first].mean()) / 2
    return float(((shade > middle) == first)[~fitted].mean())


def _groups(places: Sequence[str]) -> dict[str, npt.NDArray[np.bool_]]:
    """Which positions are of each place, (T,); and all of them."""
    names = np.array(places)
    return {**{place: names == place for place in dict.fromkeys(places)}, ALL: np.ones(len(places), bool)}


class Trial:
    """Runs of a model in which coordinates along directions are those of other states; on pairs of two classes."""

    def __init__(self, hooks: Hooks, pairs: Pairs, fitted: npt.NDArray[np.bool_]):
        from pipeline.circuits._batch import on_device

        self.hooks, self.fitted = hooks, fitted
        self.every = on_device(hooks, pairs)
        self.fit, self.rest = (on_device(hooks, pairs.take(part)) for part in (fitted, ~fitted))
        self.clean, self.corrupted = self._answers(self.rest.clean), self._answers(self.rest.corrupted)
        self.accuracy = float((self.clean > 0).float().mean())
        margin = 2 * (0.25 / len(self.rest)) ** 0.5
        self.able = self.accuracy > 0.5 + margin  # else there is nothing to be lost

    def point(self, layer: int) -> str:
        """The residual stream before a block, or, for the number of blocks, after the last."""
        at_end = layer == self.hooks.n_layer
        return f"blocks.{layer - 1}.hook_resid_post" if at_end else f"blocks.{layer}.hook_resid_pre"

    def states(self, layer: int) -> Tensor:
        """Of all clean prompts, (n, T, D), on the CPU."""
        point = self.point(layer)
        return self.hooks.read(self.every.clean, [point], logits_to_keep=1)[1][point].cpu()

    def _answers(
        self, tokens: Tensor, functions: Mapping[str, Any] | None = None, batch: Batch | None = None
    ) -> Tensor:
        """By how much the logit of the clean answer is above that of the corrupted one, (n,)."""
        from pipeline.circuits._batch import answer_logits, measure

        batch = self.rest if batch is None else batch
        with self.hooks.at(functions or {}):
            return measure("logit_diff", answer_logits(self.hooks, tokens, batch), batch)

    def effects(self, layer: int, directions_TD: Floats, states: Tensor) -> dict[str, float]:
        """What comes of swapping, and of taking out, the coordinates along directions, those of zeros left out."""
        import torch

        device = self.every.clean.device
        along = torch.from_numpy(directions_TD).to(device, states.dtype)
        point = self.point(layer)
        source = states[~self.fitted].to(device)
        swapped = self._answers(self.rest.corrupted, {point: partial(moved, along, source)})
        mean = states[self.fitted].mean(0).to(device)
        without = self._answers(self.rest.clean, {point: partial(moved, along, mean)})
        whole = float((self.clean - self.corrupted).float().mean())
        back = float((swapped - self.corrupted).float().mean())
        left = float((without > 0).float().mean())
        return {
            "patched": back / whole if self.able else float("nan"),
            "flipped": float((swapped > 0).float().mean()),
            "removed": (self.accuracy - left) / (self.accuracy - 0.5) if self.able else float("nan"),
        }

    def swapped_best(self, layer: int, at: int, states: Tensor, start: Floats, steps: int, rate: float) -> Floats:
        """The unit vector whose coordinate, swapped at a position of fitted prompts, moves their answers most, (D,)."""
        import torch

        device = self.every.clean.device
        source = states[self.fitted].to(device)
        vector = torch.from_numpy(start).to(device, states.dtype).requires_grad_()
        optimizer = torch.optim.Adam([vector], lr=rate)
        place = torch.zeros(states.shape[1], 1, device=device, dtype=states.dtype)
        place[at] = 1
        with torch.enable_grad():
            for _ in range(steps):
                along = place * vector / vector.norm()
                change: Callable[[Tensor], Tensor] = partial(moved, along, source)
                loss = -self._answers(self.fit.corrupted, {self.point(layer): change}, self.fit).mean()
                (vector.grad,) = torch.autograd.grad(loss, [vector])
                optimizer.step()
        found = vector.detach().cpu().double().numpy()
        return np.asarray(found / np.linalg.norm(found), np.float64)


def moved(along_TD: Tensor, source: Tensor, value: Tensor) -> Tensor:
    """States (n, T, D) with the coordinates along unit vectors (T, D) that other states have, (n, T, D) or (T, D)."""
    return value + ((source - value) * along_TD).sum(-1, keepdim=True) * along_TD
