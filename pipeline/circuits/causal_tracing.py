"""Where what decides the answer lies: states of a corrupted run put into the clean one, by layer and position.

Wang et al. 2024 (arXiv 2405.15071), section 3.3 and appendix D; after Vig et al. 2020 and Meng et al. 2022.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.circuits.base import Analysis, Columns, Drawing, Pairs, Source
from pipeline.corpora.base import Numbers
from pipeline.parameters import param

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from pipeline.circuits.hooks import Hooks
    from pipeline.drawing import Mark

LEAST = 0.05  # share of right answers below which their loss says nothing


@dataclass(frozen=True)
class CausalTracing(Analysis):
    """How often the answer is lost when the state at a layer and position is that of a prompt corrupted there.

    For each position the token there is replaced so that the answer changes, and the state of that run after L blocks
    is put into the clean run. `strength` is the share of prompts, of those answered rightly (`right`, of all), whose
    top token then is not the answer; `mrr` and `probability` are those of the answer. Tokens that are the same in all
    prompts, such as `<mask>` after an entity, are patched together with the position before them.
    """

    split: str = param("train_inferred", "split that the prompts are taken from; where there is none, train")
    pairs: int = param(300, "most pairs of prompts for each position", ge=1)

    same_length: ClassVar[bool] = True

    def choose(self, source: Source) -> Pairs:
        return source.pairs(self.split, self.pairs, self.seed, every_position=True)

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        found: dict[str, list[Any]] = {
            name: [] for name in ("layer", "position", "place", "strength", "mrr", "probability", "right")
        }
        for position in sorted(set(pairs.where.tolist())):
            chosen = pairs.take(pairs.where == position)
            ranks, chances, before = trace(hooks, chosen, position, span(pairs, position))
            right = before == 0
            known = right.mean() >= LEAST
            lost = (ranks[:, right] > 0).mean(axis=1) if known else np.full(len(ranks), np.nan)
            found["layer"] += range(len(ranks))
            found["position"] += [position] * len(ranks)
            found["place"] += [pairs.places[position]] * len(ranks)
            found["strength"] += lost.tolist()
            found["mrr"] += (1 / (ranks + 1)).mean(axis=1).tolist()
            found["probability"] += chances.mean(axis=1).tolist()
            found["right"] += [float(right.mean())] * len(ranks)
        return found

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.layers import drawn_grids, grids

        found = grids(table, "strength", "layer", "position", None, "place")
        what = "share of right answers lost when the state after a layer, at a position, is that of a corrupted prompt"
        ending = f". Grey: the model answers less than {100 * LEAST:g} % rightly"
        return {"": drawn_grids(found, what, ("layer", "position"), marks, ending=ending)}


def span(pairs: Pairs, position: int) -> int:
    """Where the states that are patched for a position end: fillers after it, but not the last token, go with it."""
    constant = (pairs.clean == pairs.clean[:1]).all(axis=0)
    # One prompt alone does not show what is the same in all, and what is corrupted somewhere is no filler.
    constant &= not constant.all()
    constant[pairs.where] = False
    end = position + 1
    while end < len(constant) - 1 and constant[end]:
        end += 1
    return end


def trace(hooks: Hooks, pairs: Pairs, start: int, stop: int) -> tuple[Numbers, Any, Numbers]:
    """Ranks and probabilities of the answers (L + 1, n), and their ranks before (n,).

    In row l the states at positions start to stop after l blocks, of pairs that differ nowhere before or after, come
    from the corrupted run; the last row is the state before the final norm.
    """
    import torch

    from pipeline.circuits._batches import FLOATS, on_device, split, standing

    batch = on_device(hooks, pairs)
    if bool((batch.clean != batch.corrupted)[:, stop:].any()):
        raise ValueError(f"CausalTracing needs pairs that differ in one place; some differ after position {start} too")
    # Keys, values, and the neurons of the patches that go through a block together.
    per_row = 8 * hooks.n_layer * batch.clean.shape[1] * hooks.d_model
    ranks: list[Tensor] = []
    chances: list[Tensor] = []
    for part in split(batch, per_row, FLOATS // 2):
        normed = torch.stack(list(_patched(hooks, part.clean, part.corrupted, start, stop)))
        found = standing(hooks, normed.flatten(0, 1), part.answer.repeat(len(normed))[:, None])
        for parts, side in zip((ranks, chances), found):
            parts.append(side.view(normed.shape[:2]))
    every, chance = (torch.cat(parts, dim=1).numpy() for parts in (ranks, chances))
    return every[1:], chance[1:], every[0]


def _patched(hooks: Hooks, clean: Any, corrupted: Any, start: int, stop: int) -> Iterator[Any]:
    """Last states (n, D), after the norm, of the clean run, then of those patched after 0, 1 ... L blocks.

    What is patched is the first thing that differs, so it goes on as in the corrupted run, and only the tokens after it
    are run again: behind the keys and values of the clean run before it and of the corrupted run at it, and those of
    all layers in one pass, which each joins where it is patched.
    """
    import torch

    layers, n = hooks.n_layer, len(clean)
    tail = clean.shape[1] - stop
    before, states = _run(hooks, clean, range(1, layers))
    after, _ = _run(hooks, corrupted, ())
    clean_end, corrupted_end = before.last_hidden_state[:, -1], after.last_hidden_state[:, -1]
    yield clean_end
    yield corrupted_end
    if not tail:
        # At the last token all that is before it is clean in both runs, so the state carries everything.
        yield from [corrupted_end] * layers
        return
    if layers > 1:
        keys = [_prefix(a, b, start, stop) for a, b in zip(before.past_key_values.layers, after.past_key_values.layers)]
        joined: dict[str, Any] = {
            f"blocks.{layer}.hook_resid_pre": _joining(states[layer][:, stop:], first=layer == 1)
            for layer in range(1, layers)
        }
        joined["blocks.0.hook_resid_pre"] = lambda value: states[1][:1, stop:]  # what block 0 gives is not used
        places = torch.arange(stop, clean.shape[1], device=clean.device)[None]
        base: Any = hooks.model.base_model
        with hooks.at(joined):
            out = base(input_ids=clean[:1, stop:], past_key_values=_cache(keys), use_cache=True, position_ids=places)
        yield from out.last_hidden_state[:, -1].unflatten(0, (layers - 1, n))
    yield clean_end  # nothing after the last block reads an earlier position


def _run(hooks: Hooks, tokens: Any, layers: Any) -> tuple[Any, dict[int, Any]]:
    """A run with its keys and values, up to the final norm, and the states before some blocks."""
    states: dict[int, Any] = {}

    def keep(layer: int) -> Any:
        return lambda value: states.__setitem__(layer, value)

    base: Any = hooks.model.base_model
    with hooks.at({f"blocks.{layer}.hook_resid_pre": keep(layer) for layer in layers}):
        return base(input_ids=tokens, use_cache=True), states


def _prefix(clean: Any, corrupted: Any, start: int, stop: int) -> Any:
    """Keys and values (2, n, H, stop, E) of a layer: clean, and corrupted from `start` on."""
    import torch

    sides = ((clean.keys, corrupted.keys), (clean.values, corrupted.values))
    return torch.stack([torch.cat([a[:, :, :start], b[:, :, start:stop]], dim=2) for a, b in sides])


def _cache(prefixes: list[Any]) -> Any:
    """A cache of these keys and values, which stand before the new ones of as many patches as there are."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer, (keys, values) in enumerate(prefixes):
        cache.update(keys[:1], values[:1], layer)  # so that it knows its length

    def update(keys: Any, values: Any, layer: int, *_: Any, **__: Any) -> tuple[Any, ...]:
        times, rows = max(len(keys) // prefixes[layer].shape[1], 1), len(keys)
        old = prefixes[layer].repeat(1, times, 1, 1, 1)[:, :rows]
        return tuple(torch.cat([before, new], dim=2) for before, new in zip(old, (keys, values)))

    cache.update = update  # type: ignore[method-assign,assignment]  # all that attention asks of a cache
    return cache


def _joining(clean: Any, first: bool) -> Any:
    """The clean states below those of the patches that began in earlier layers."""
    import torch

    return lambda value: clean.contiguous() if first else torch.cat([value, clean])
