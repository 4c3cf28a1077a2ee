"""Attention sinks, and what comes with them: drained values, and a peak of the residual stream at the first token.

Guo et al. 2024, "Active-Dormant Attention Heads" (arXiv 2410.13835), sections 2 and 3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.circuits.base import Analysis, Columns, Pairs, Source
from pipeline.plots.base import Drawing

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

NONE = -1  # in the place of a layer or a head


@dataclass(frozen=True)
class Sinks(Analysis):
    """What heads and residual stream do at the first token of prompts, against all later ones.

    Of each head: `attention` is its mean attention to the first token, `sink logit` its score for it less the mean
    score for the other tokens that are seen, both from tokens at which it has nothing to do (`part` dormant) and at
    which it has (active); `value` is the norm of the first token's value over the mean norm of the others'. Of each
    layer: `residual` is the same of the stream after the block. Of the model: `excess risk` is the loss above that of
    the law by which the corpus draws its rows, for tokens that are drawn (dormant) and that are copied (active).

    Which is which is known of the corpus bigram_backcopy. Of others all tokens are dormant, and no risk is measured.
    """

    def choose(self, source: Source) -> Pairs:
        return source.drawn(self.split, self.pairs, self.seed) or source.pairs(self.split, self.pairs, self.seed)

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        from pipeline.circuits._batch import FLOATS, on_device, split

        length = pairs.clean.shape[1]
        sums: dict[tuple[str, str, int], Any] = defaultdict(float)  # measure, part, layer -> sums over heads, or one
        floats = hooks.n_layer * length * (2 * hooks.n_head * length + 4 * hooks.d_model)
        floats += length * hooks.head.weight.shape[0]
        start = 0
        for batch in split(on_device(hooks, pairs), floats, FLOATS // 2):
            rows = slice(start, start := start + len(batch))
            for key, value in _sums(hooks, batch.clean, pairs, rows).items():
                sums[key] += value
        return _table(hooks, sums)

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.sinks import draw_sinks

        return draw_sinks(table, marks)


def _sums(hooks: Hooks, tokens: Tensor, pairs: Pairs, rows: slice) -> dict[tuple[str, str, int], Any]:
    """Sums over prompts and positions of some rows, and under `count` how many there are."""
    import torch

    names = {point: f"blocks.{{}}.{point}" for point in ("attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_v")}
    names["hook_resid_post"] = "blocks.{}.hook_resid_post"
    layers = range(hooks.n_layer)
    wanted = [name.format(layer) for name in names.values() for layer in layers]
    logits, found = hooks.read(tokens, wanted)
    place_T = np.arange(tokens.shape[1])
    real = (place_T > 0) & (place_T < pairs.lengths[rows, None])
    active = pairs.values["active"][rows] == 1 if "active" in pairs.values else np.zeros_like(real)
    parts = {"dormant": real & ~active, "active": real & active}
    masks = {name: torch.from_numpy(mask).to(tokens.device) for name, mask in parts.items()}
    later = torch.from_numpy(real).to(tokens.device)
    others = torch.ones(tokens.shape[1], tokens.shape[1], device=tokens.device, dtype=torch.bool).tril()
    others[:, 0] = False
    sums: dict[tuple[str, str, int], Any] = {
        ("count", "first", NONE): len(tokens), ("count", "later", NONE): real.sum(),
        **{("count", name, NONE): mask.sum() for name, mask in parts.items()},
    }  # fmt: skip

    def add(measure: str, part: str, layer: int, values: Tensor, mask: Tensor) -> None:
        """Sums of values (B, T, ...) over the places of a mask (B, T)."""
        sums[measure, part, layer] = values[mask].cpu().double().sum(0).numpy()

    first = torch.zeros_like(later)
    first[:, 0] = True
    for layer in layers:
        scores, pattern, value, stream = (found[name.format(layer)].float() for name in names.values())
        known = scores.masked_fill(~others, 0.0).sum(-1) / others.sum(-1).clamp(min=1)
        for part, mask in masks.items():
            add("attention", part, layer, pattern[..., 0].transpose(1, 2), mask)
            add("sink logit", part, layer, (scores[..., 0] - known).transpose(1, 2), mask)
        value = value.repeat_interleave(hooks.n_head // value.shape[2], 2)  # that of a group is each of its heads'
        for part, mask in {"first": first, "later": later}.items():
            add("value", part, layer, value.norm(dim=-1), mask)
            add("residual", part, layer, stream.norm(dim=-1), mask)
    if "surprise" in pairs.values:
        following = np.hstack([pairs.clean[rows, 1:], pairs.answers[rows, :1]])
        chosen = torch.from_numpy(following).long().to(tokens.device)[..., None]
        loss = -logits.float().log_softmax(-1).gather(-1, chosen)[..., 0].cpu().double()
        excess = loss - torch.from_numpy(pairs.values["surprise"][rows])
        for part, mask in masks.items():
            add("excess risk", part, NONE, excess, mask.cpu())
    return sums


def _table(hooks: Hooks, sums: dict[tuple[str, str, int], Any]) -> Columns:
    means = {key: value / max(sums["count", key[1], NONE], 1) for key, value in sums.items() if key[0] != "count"}
    rows: list[tuple[str, str, int, int, float]] = []
    for (measure, part, layer), mean in means.items():
        if part in ("dormant", "active"):
            if not sums["count", part, NONE]:
                continue
            value = mean
        elif part == "first":  # the first token over the later ones
            value, part = mean / np.maximum(means[measure, "later", layer], 1e-30), ""
        else:
            continue
        heads = enumerate(value) if np.ndim(value) else [(NONE, value)]
        rows += [(measure, part, layer, head, float(one)) for head, one in heads]
    return {name: [row[i] for row in rows] for i, name in enumerate(("measure", "part", "layer", "head", "value"))}
