"""How many tokens heads attend to: the intrinsic dimension of what attention can make of a context.

Cosentino & Shekkizhar 2024, "Reasoning in Large Language Models: A Geometric Perspective" (arXiv 2407.02678).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from pipeline.circuits.base import Analysis, Columns, Pairs, Source
from pipeline.config.fields import param
from pipeline.plots.base import Drawing
from pipeline.utils.draws import Draws

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

ALL = -1  # in the place of a head: the sum over all of a layer
CONTEXT, RANDOM = "prompts", "random tokens"
NAMES = ("measure", "context", "layer", "head", "position", "place", "shot", "value")


@dataclass(frozen=True)
class AttentionDensity(Analysis):
    """How many tokens each head attends to at each position, and whether more of them go with a right answer.

    What attention adds at a token lies in a sum of convex hulls of values, whose dimension is at most the number of
    tokens that are attended to. `density` counts those above `threshold`, of each head and, as head -1, of all heads
    of a layer together: a mean over prompts. Attention adds up to 1, so a head has fewer than 1 / threshold of them;
    `most` is the largest count of any prompt. `right` is the share of prompts whose next token is the likeliest one,
    the answer after the last; `relation` the correlation, over prompts, of a layer's density with that. `shot` is how
    many positions before are of the same place, such as inputs of examples. `context`: the prompts, or the last token
    behind random tokens of the prompts in their place.
    """

    threshold: float = param(0.1, "attention above which a token counts", gt=0, lt=1)

    same_length: ClassVar[bool] = True

    def choose(self, source: Source) -> Pairs:
        return source.prompts(self.split, self.pairs, self.seed)

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        import torch

        width = pairs.clean.shape[1]
        tokens = np.unique(pairs.clean)
        behind = tokens[Draws(self.seed, "random context").below(len(tokens), *pairs.clean.shape)]
        behind[:, -1] = pairs.clean[:, -1]
        shot = [list(pairs.places[:at]).count(place) for at, place in enumerate(pairs.places)]
        rows: list[tuple[str, str, int, int, int, str, int, float]] = []
        for context, prompts in {CONTEXT: pairs.clean, RANDOM: behind}.items():
            counts, choice = self._counts(hooks, torch.from_numpy(prompts).long())
            total = counts.sum(axis=2)  # (n, L, T)
            for position in range(width) if context == CONTEXT else [width - 1]:
                at = (position, pairs.places[position], shot[position])
                for layer in range(hooks.n_layer):
                    density = counts[:, layer, :, position].mean(axis=0)
                    rows += [("density", context, layer, head, *at, float(one)) for head, one in enumerate(density)]
                    rows.append(("density", context, layer, ALL, *at, float(total[:, layer, position].mean())))
                    if context == CONTEXT:
                        most = counts[:, layer, :, position].max(axis=0)
                        rows += [("most", context, layer, head, *at, float(one)) for head, one in enumerate(most)]
                if context == CONTEXT:
                    following = pairs.clean[:, position + 1] if position + 1 < width else pairs.answers[:, 0]
                    right = choice[:, position] == following
                    rows.append(("right", context, ALL, ALL, *at, float(right.mean())))
                    for layer in range(hooks.n_layer):
                        value = correlation(total[:, layer, position], right)
                        rows.append(("relation", context, layer, ALL, *at, value))
        return {name: [row[i] for row in rows] for i, name in enumerate(NAMES)}

    def _counts(self, hooks: Hooks, tokens: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """How many tokens are attended to, (n, L, H, T), and the likeliest next tokens, (n, T)."""
        from pipeline.circuits._batch import FLOATS

        names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(hooks.n_layer)]
        width = tokens.shape[1]
        floats = width * (2 * len(names) * hooks.n_head * width + hooks.head.weight.shape[0])
        counts, choices = [], []
        for part in tokens.split(max(FLOATS // floats, 1)):
            logits, found = hooks.read(part.to(hooks.model.device), names)
            above = [(found[name] > self.threshold).sum(-1).cpu().numpy() for name in names]
            counts.append(np.stack(above, axis=1))
            choices.append(logits.argmax(-1).cpu().numpy())
        return np.concatenate(counts), np.concatenate(choices)

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.attention_density import draw_density

        return draw_density(table, marks)


def correlation(counts: npt.NDArray[np.int64], right: npt.NDArray[np.bool_]) -> float:
    """Pearson's, over prompts; NaN where either does not vary."""
    if len(set(counts.tolist())) < 2 or right.all() or not right.any():
        return float("nan")
    return float(np.corrcoef(counts, right)[0, 1])
