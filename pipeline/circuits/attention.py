"""Where heads look: their mean patterns on prompts, and how much of induction and its kin is in each of them.

Olsson et al. 2022, "In-context Learning and Induction Heads"; scores as in Tigges et al. 2024 (arXiv 2407.10827);
sinks: Xiao et al. 2023 (arXiv 2309.17453), Guo et al. 2024 (arXiv 2410.13835).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.circuits.base import Analysis, Columns, Pairs
from pipeline.config.fields import param
from pipeline.plots.base import Drawing

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark


@dataclass(frozen=True)
class Attention(Analysis):
    """Each head's attention from position to position, a mean over prompts, and its scores, all in [0, 1].

    `induction` and `duplicate token` are the attention of random tokens that are repeated to the token after the
    earlier one like it, and to that earlier one; `previous token` is the attention, in both halves, to the token
    before. Where in a row a repetition begins, and how long it is, is random, so that positions do not give it away.
    `sink` is the attention to the first token, of all later ones, on the prompts. Random tokens are those of the
    prompts.
    """

    repeats: int = param(64, "rows of repeated random tokens", ge=1)
    length: int = param(16, "most tokens that are repeated", ge=2)

    same_length: ClassVar[bool] = True

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        import numpy as np

        from pipeline.circuits._batch import FLOATS, on_device, split
        from pipeline.circuits._head_scores import repeated_scores

        names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(hooks.n_layer)]
        sums = []
        for part in split(
            on_device(hooks, pairs), hooks.n_layer * hooks.n_head * pairs.clean.shape[1] ** 2, FLOATS // 2
        ):
            _, found = hooks.read(part.clean, names, logits_to_keep=1)
            sums.append(np.stack([found[name].float().sum(0).cpu().numpy() for name in names]))
        mean_LHTT = np.sum(sums, axis=0) / len(pairs)
        scores = repeated_scores(hooks, pairs.clean, self.seed, self.repeats, self.length)
        scores["sink"] = mean_LHTT[:, :, 1:, 0].mean(axis=-1)
        layer, head, query, key = (grid.ravel() for grid in np.indices(mean_LHTT.shape))
        seen = key <= query
        rows = {"layer": layer[seen], "head": head[seen], "query": query[seen], "key": key[seen]}
        values, kinds = [mean_LHTT.ravel()[seen]], ["pattern"] * int(seen.sum())
        for name, score_LH in scores.items():
            own = [grid.ravel() for grid in np.indices(score_LH.shape)]
            none = np.full(score_LH.size, -1)
            rows = {key: np.append(rows[key], part) for key, part in zip(rows, [*own, none, none])}
            values.append(score_LH.ravel())
            kinds += [name] * score_LH.size
        places = [pairs.places[i] if i >= 0 else "" for i in rows["query"]]
        return {**rows, "place": places, "score": kinds, "attention": np.concatenate(values).astype(np.float64)}

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.attention import draw_patterns, draw_scores

        return {"": draw_scores(table, marks), "patterns": draw_patterns(table)}
