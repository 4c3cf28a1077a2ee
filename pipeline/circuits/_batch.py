"""Pairs as tensors beside a model, what is measured of an answer's logits, and how much fits into memory at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.circuits.base import Pairs
from pipeline.circuits.hooks import Hooks
from pipeline.kernels.devices import widest
from pipeline.kernels.onednn import quicken
from pipeline.utils.draws import Draws

Metric = Literal["logit_diff", "prob_diff", "kl"]
FLOATS = 1 << 26  # that a batch may hold beside the model, 256 MB
ROWS, TOKENS = 1280, 1024  # logits at once: many enough for a fast product, and still in the cache when compared


class Batch(NamedTuple):
    """n pairs on the model's device: clean and corrupted (n, P), the first tokens of both answers (n,), where the
    prompts end (n,), and the one position at which all of them end, or None."""

    clean: Tensor
    corrupted: Tensor
    answer: Tensor
    wrong: Tensor
    last: Tensor
    end: int | None

    def __len__(self) -> int:
        return len(self.clean)

    def rows(self, start: int, count: int) -> Batch:
        return self._with(lambda tensor: tensor[start : start + count])

    def repeat(self, times: int) -> Batch:
        """The batch so many times below itself."""
        return self._with(lambda tensor: tensor.repeat(times, *[1] * (tensor.ndim - 1)))

    def _with(self, change: Callable[[Tensor], Tensor]) -> Batch:
        clean, corrupted, answer, wrong, last = map(change, self[:5])
        return Batch(clean, corrupted, answer, wrong, last, self.end)


def on_device(hooks: Hooks, pairs: Pairs) -> Batch:
    parts = (pairs.clean, pairs.corrupted, pairs.answers[:, 0], pairs.corrupted_answers[:, 0], pairs.lengths - 1)
    ends = set(pairs.lengths.tolist())
    end = ends.pop() - 1 if len(ends) == 1 else None
    on = (torch.from_numpy(np.ascontiguousarray(part)).long().to(hooks.model.device) for part in parts)
    clean, corrupted, answer, wrong, last = on
    return Batch(clean, corrupted, answer, wrong, last, end)


def split(batch: Batch, floats_per_row: int, most: int = FLOATS) -> Iterator[Batch]:
    """Parts of the batch that hold no more than `most` numbers each, and at least a row."""
    count = max(most // max(floats_per_row, 1), 1)
    return (batch.rows(start, count) for start in range(0, len(batch), count))


def answer_logits(hooks: Hooks, tokens: Tensor, batch: Batch) -> Tensor:
    """Logits (n, V) where the prompts end, in float32 or better."""
    if batch.end == tokens.shape[1] - 1:
        logits = hooks.run(tokens, logits_to_keep=1)[:, 0]
    else:
        logits = hooks.run(tokens)[torch.arange(len(tokens), device=tokens.device), batch.last]
    return logits if logits.dtype == torch.float64 else logits.float()


def standing(hooks: Hooks, normed: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks, from 0, and probabilities of tokens (N, K) in the logits of states (N, D) after the final norm; float64
    where the device has it.

    A rank is how many other logits lie above; nothing is sorted, and no row of logits is in memory as a whole: they
    are formed, compared and summed in tiles, of float32 or better.
    """
    exact = torch.promote_types(normed.dtype, torch.float32)
    tiles = dict(_tiles(hooks.head, exact))
    quicken(nn.ModuleList(tiles.values()))
    parts = -(-len(normed) // ROWS)
    found = [
        _standing(hooks.head, tiles, states.to(exact), wanted)
        for states, wanted in zip(normed.chunk(parts), tokens.chunk(parts))
    ]
    ranks, chances = (torch.cat(side) for side in zip(*found))
    return ranks, chances


def _tiles(head: Any, dtype: torch.dtype) -> Iterator[tuple[int, nn.Linear]]:
    """The output projection in parts of the vocabulary, which share its weights, with the first token of each."""
    for first in range(0, len(head.weight), TOKENS):
        weight = head.weight[first : first + TOKENS].to(dtype)
        tile = nn.Linear(weight.shape[1], len(weight), bias=head.bias is not None, device="meta")
        tile.weight = nn.Parameter(weight, requires_grad=False)
        if head.bias is not None:
            tile.bias = nn.Parameter(head.bias[first : first + TOKENS].to(dtype), requires_grad=False)
        yield first, tile


def _standing(head: Any, tiles: Mapping[int, nn.Linear], states: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
    values = torch.einsum("nd,nkd->nk", states, head.weight[tokens].to(states.dtype))
    if head.bias is not None:
        values = values + head.bias[tokens]
    wide = widest(tokens.device)
    ranks = torch.zeros(tokens.shape, dtype=wide, device=tokens.device)
    tops, sums = [], []
    above = torch.empty(0)
    for first, tile in tiles.items():
        logits = tile(states)
        above = above if above.shape == logits.shape else torch.empty_like(logits)
        for k in range(tokens.shape[1]):
            # Comparisons as numbers, into the same place every time: many times faster than counting booleans.
            ranks[:, k] += torch.gt(logits, values[:, k : k + 1], out=above).sum(1)
        # A token's own logit, formed in another order, does not lie above itself.
        own = logits.gather(1, (tokens - first).clamp(0, logits.shape[1] - 1))
        ranks -= ((own > values) & (tokens >= first) & (tokens < first + logits.shape[1])).to(wide)
        tops.append(logits.amax(1))
        # Powers of two, as torch leaves those of e to MKL, which takes four times as long without AVX-512.
        sums.append(logits.sub_(tops[-1][:, None]).mul_(1 / math.log(2)).exp2_().sum(1))
    highest, summed = torch.stack(tops).to(wide), torch.stack(sums).to(wide)
    top = highest.amax(0)
    total = (summed * (highest - top).exp()).sum(0)
    return ranks.cpu(), ((values.to(wide) - top[:, None]).exp() / total[:, None]).cpu()


def measure(metric: Metric, logits: Tensor, batch: Batch, clean: Tensor | None = None) -> Tensor:
    """The metric of each row (n,), from its logits (n, V).

    `logit_diff` and `prob_diff` are of the answer over the corrupted prompt's answer; `kl` is minus the divergence from
    the distribution of the clean run's logits, so that more is better of all three.
    """
    if metric == "kl":
        assert clean is not None
        return -F.kl_div(logits.log_softmax(-1), clean.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    values = logits.softmax(-1) if metric == "prob_diff" else logits
    return (values.gather(1, batch.answer[:, None]) - values.gather(1, batch.wrong[:, None])).squeeze(1)


def stands_out(values: Tensor) -> bool:
    """Whether a mean is positive beyond two standard errors."""
    error = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(values.mean()) > 2 * error


def bootstrap(statistic: Callable[[Tensor], Tensor], n: int, seed: int, draws: int = 1000) -> tuple[float, float]:
    """The central 95 % of a statistic of rows that are drawn anew with replacement, from indices (draws, n)."""
    drawn = torch.from_numpy(Draws(seed, "bootstrap").below(n, draws, n))
    values: npt.NDArray[np.float64] = statistic(drawn).cpu().double().numpy()
    if not np.isfinite(values).any():
        return float("nan"), float("nan")
    low, high = np.nanquantile(values[np.isfinite(values)], [0.025, 0.975])
    return float(low), float(high)
