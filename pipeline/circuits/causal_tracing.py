"""Where what decides the answer lies: states of a corrupted run put into the clean one, by layer and position.

Wang et al. 2024 (arXiv 2405.15071), section 3.3 and appendix D; after Vig et al. 2020 and Meng et al. 2022.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.circuits.base import Analysis, Columns, Pairs, Source
from pipeline.config.fields import param
from pipeline.plots.base import Drawing
from pipeline.utils.draws import Numbers
from pipeline.utils.errors import MismatchError, ParameterError

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedModel

    from pipeline.circuits._batch import Batch
    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

Floats = npt.NDArray[np.float64]
INFERRED = "train_inferred"  # which corpora of single facts do not have
LEAST = 0.05  # share of right answers below which their loss says nothing


@dataclass(frozen=True)
class CausalTracing(Analysis):
    """How often the answer is lost when the state at a layer and position is that of a prompt corrupted there.

    For each position the token there is replaced so that the answer changes, and the state of that run after L blocks
    is put into the clean run. `strength` is the share of prompts, of those answered rightly (`right`, of all), whose
    top token then is not the answer; `strength of all` is that share of all prompts, as in the authors' code; `mrr` and
    `probability` are those of the answer. Tokens that are the same in all prompts, such as `<mask>` after an entity,
    are patched together with the position before them. All positions are measured on the same prompts, where some can
    be corrupted at all of them. Under `corruption: any` a corrupted prompt need not be one of the corpus, nor have an
    answer: another head, or another relation of the head or of the bridge, leads to another tail or to none; of two
    compared entities one gets the value of the other. Corpora whose paper has no such rule take prompts of the corpus.
    """

    split: str = param(INFERRED, "split that the prompts are taken from; where there is none, train")
    pairs: int = param(300, "most pairs of prompts for each position", ge=1)
    corruption: Literal["any", "corpus"] = param("any", "by the rule of the corpus's paper, or prompts of the corpus")

    same_length: ClassVar[bool] = True

    @property
    def splits(self) -> tuple[str, ...]:
        return (self.split, "train") if self.split == INFERRED else (self.split,)

    def choose(self, source: Source) -> Pairs:
        *before, last = self.splits
        for split in before:
            with contextlib.suppress(ParameterError):
                return source.pairs(split, self.pairs, self.seed, True, self.corruption)
        return source.pairs(last, self.pairs, self.seed, True, self.corruption)

    def check(self, model: PreTrainedModel, pairs: Pairs) -> None:
        from pipeline.circuits._stream import check_model_output

        super().check(model, pairs)
        check_model_output(model, pairs)

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        where = pairs.where
        stops = {position: span(pairs, position) for position in sorted(set(where.tolist()))}
        ranks, chances, before = trace(hooks, pairs, stops)
        found: dict[str, list[Any]] = {
            name: []
            for name in ("layer", "position", "place", "strength", "strength of all", "mrr", "probability", "right")
        }
        for position in stops:
            here = where == position
            right = here & (before == 0)
            known = right.sum() >= LEAST * here.sum()
            lost = (ranks[:, right] > 0).mean(axis=1) if known else np.full(len(ranks), np.nan)
            found["layer"] += range(len(ranks))
            found["position"] += [position] * len(ranks)
            found["place"] += [pairs.places[position]] * len(ranks)
            found["strength"] += lost.tolist()
            found["strength of all"] += (ranks[:, here] > 0).mean(axis=1).tolist()
            found["mrr"] += (1 / (ranks[:, here] + 1)).mean(axis=1).tolist()
            found["probability"] += chances[:, here].mean(axis=1).tolist()
            found["right"] += [float(right.sum() / here.sum())] * len(ranks)
        return found

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.heatmap import drawn_grids, grids

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


def trace(hooks: Hooks, pairs: Pairs, stops: Mapping[int, int]) -> tuple[Floats, Floats, Floats]:
    """Ranks and probabilities of the answers (L + 1, n), and their ranks before (n,).

    In row l the states after l blocks, from where the two prompts of a pair differ to `stops` of that position, come
    from the corrupted run; the last row is the state before the final norm.

    Raises:
        MismatchError: when a pair differs after its stop too.
    """
    from pipeline.circuits._batch import FLOATS, on_device
    from pipeline.circuits._parallel import over_threads, workers_of
    from pipeline.circuits._stream import check_output
    from pipeline.kernels.onednn import packed

    batch, width = on_device(hooks, pairs), pairs.clean.shape[1]
    for start, stop in stops.items():
        if (pairs.clean != pairs.corrupted)[pairs.where == start, stop:].any():
            text = f"CausalTracing needs pairs that differ in one place; some differ after position {start} too"
            raise MismatchError(text)
    check_output(hooks, batch.clean)
    _check_patches(hooks, batch, pairs.where, stops)
    # A prompt that is corrupted in several places is run once: its pairs lie side by side.
    asked = np.hstack([pairs.clean, pairs.answers[:, :1]])
    prompt = np.unique(asked, axis=0, return_inverse=True)[1].ravel()
    # Keys, values, and the neurons of the patches that go through a block together.
    most = max(FLOATS // (8 * hooks.n_layer * width * hooks.d_model), 1)
    workers = workers_of(hooks, len(prompt))
    parts = np.array_split(np.argsort(prompt, kind="stable"), -(-len(prompt) // most) * workers)
    with packed(hooks.blocks):
        found = over_threads(
            hooks, lambda own, part: _traced(own, batch, prompt, pairs.where, stops, part), parts, workers
        )
    order = np.argsort(np.concatenate(parts))
    ranks, chances = (np.concatenate(side, axis=1)[:, order] for side in zip(*found))
    return ranks[1:], chances[1:], ranks[0]


def _check_patches(hooks: Hooks, batch: Batch, where: Numbers, stops: Mapping[int, int]) -> None:
    """Checks what `_patched` gives for the first pair of each position; see `check_patched`."""
    from pipeline.circuits._stream import check_patched

    for start, stop in stops.items():
        rows = np.flatnonzero(where == start)[:1]
        if len(rows):
            clean = _run(hooks, batch.clean[rows], range(1, hooks.n_layer))
            ends = _patched(hooks, clean, np.arange(len(rows)), batch.corrupted[rows], start, stop)
            check_patched(hooks, ends, batch.clean[rows], batch.corrupted[rows], stop)


def _traced(
    hooks: Hooks, batch: Batch, prompt: Numbers, where: Numbers, stops: Mapping[int, int], part: Numbers
) -> tuple[Floats, Floats]:
    """Ranks and probabilities (L + 2, n) of some pairs, with those before in the first row."""
    import torch

    from pipeline.circuits._batch import standing

    _, first, own = np.unique(prompt[part], return_index=True, return_inverse=True)
    prompts = part[first]
    clean = _run(hooks, batch.clean[prompts], range(1, hooks.n_layer))
    ends, answers, size = [clean.end], [batch.answer[prompts]], len(prompts)
    source = np.tile(own, (hooks.n_layer + 2, 1))  # the row of `ends` that each value is read off
    for start, stop in stops.items():
        here = np.flatnonzero(where[part] == start)
        if not len(here):
            continue
        found = _patched(hooks, clean, own[here], batch.corrupted[part[here]], start, stop)
        ends.append(found.flatten(0, 1))
        answers.append(batch.answer[part[here]].repeat(len(found)))
        # At the last token all that is before it is clean in both runs, so the state carries everything, whatever
        # the layer; at others nothing reads the state after the last block.
        rows = size + np.arange(found.shape[0] * len(here)).reshape(-1, len(here))
        source[1 : None if stop == batch.clean.shape[1] else -1, here] = rows
        size += rows.size
    standings = standing(hooks, torch.cat(ends), torch.cat(answers)[:, None])
    ranks, chances = (side[:, 0].numpy()[source] for side in standings)
    return ranks, chances


class Ran(NamedTuple):
    """A run: last states (n, D) after the norm, states (n, T, D) before some blocks, and the cache of all."""

    end: Any
    states: dict[int, Any]
    cache: Any


def _run(hooks: Hooks, tokens: Any, layers: Iterable[int], cache: Any = None) -> Ran:
    """A run of tokens (n, T), behind those of a cache where there is one, up to the final norm.

    The last MLP is computed at the last token alone; what it gives there is added to all, of which one is read.
    """
    import torch

    states: dict[int, Any] = {}
    before = cache.get_seq_length() if cache is not None else 0
    places = torch.arange(before, before + tokens.shape[1], device=tokens.device)[None]
    base: Any = hooks.model.base_model
    functions: dict[str, Any] = {
        f"blocks.{layer}.hook_resid_pre": partial(states.__setitem__, layer) for layer in layers
    }
    functions[f"blocks.{hooks.n_layer - 1}.hook_mlp_in"] = lambda value: value[:, -1:]
    with hooks.at(functions):
        out = base(input_ids=tokens, past_key_values=cache, use_cache=True, position_ids=places)
    return Ran(out.last_hidden_state[:, -1], states, out.past_key_values)


def _patched(hooks: Hooks, clean: Ran, own: Numbers, corrupted: Any, start: int, stop: int) -> Any:
    """Last states, after the norm, of n clean runs patched after 0, 1 ... L - 1 blocks, (L, n, D).

    The clean runs are the rows `own` of `clean`. What is patched is the first thing that differs, so it goes on as in
    the corrupted run, and only the tokens after it are run again: behind the keys and values of the clean run before it
    and of the corrupted run at it, and those of all layers in one pass, which each joins where it is patched. Where
    no token is after it, all layers are alike, and (1, n, D) is returned.
    """
    import torch

    layers, width = hooks.n_layer, corrupted.shape[1]
    after = _run(hooks, corrupted[:, start:], (), _beginning(clean.cache, own, start))
    if stop == width or layers == 1:
        return after.end[None]
    states = {layer: state[own, stop:] for layer, state in clean.states.items()}
    keys = [(layer.keys[:, :, :stop], layer.values[:, :, :stop]) for layer in after.cache.layers]
    joined: dict[str, Any] = {
        f"blocks.{layer}.hook_resid_pre": _joining(states[layer], first=layer == 1) for layer in range(1, layers)
    }
    joined["blocks.0.hook_resid_pre"] = lambda value: states[1][:1]  # what block 0 gives is not used
    with hooks.at(joined):
        out = _run(hooks, corrupted[:1, stop:], (), _repeating(keys))
    return torch.cat([after.end[None], out.end.unflatten(0, (layers - 1, len(own)))])


def _beginning(cache: Any, rows: Numbers, stop: int) -> Any:
    """A cache of the first tokens of some rows of a cache, or None where there are none."""
    from transformers import DynamicCache

    if not stop:
        return None
    found = DynamicCache()
    for i, layer in enumerate(cache.layers):
        found.update(layer.keys[rows, :, :stop], layer.values[rows, :, :stop], i)
    return found


def _repeating(beginnings: list[tuple[Any, Any]]) -> Any:
    """A cache of these keys and values, which stand before the new ones of as many patches as there are."""
    import torch
    from transformers import DynamicCache

    class Repeating(DynamicCache):
        def update(self, key_states: Any, value_states: Any, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
            rows, sides = len(key_states), beginnings[layer_idx]
            times = max(rows // len(sides[0]), 1)
            keys, values = (side.repeat(times, 1, 1, 1)[:rows] for side in sides)
            return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    cache = Repeating()
    for layer, (keys, values) in enumerate(beginnings):
        DynamicCache.update(cache, keys[:1], values[:1], layer)  # so that it knows its length
    return cache


def _joining(clean: Any, first: bool) -> Any:
    """The clean states below those of the patches that began in earlier layers."""
    import torch

    return lambda value: clean.contiguous() if first else torch.cat([value, clean])
