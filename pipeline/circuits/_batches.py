"""Pairs as tensors beside a model, what is measured of an answer's logits, and how much fits into memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.circuits.base import Pairs
from pipeline.circuits.hooks import Hooks

Metric = Literal["logit_diff", "prob_diff", "kl"]
FLOATS = 1 << 26  # that a batch may hold beside the model, 256 MB
CACHED = 1 << 23  # logits at once: what is still in a processor's cache when it is compared


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
    """Ranks, from 0, and probabilities of tokens (N, K) in the logits of states (N, D) after the final norm; float64.

    A rank is how many logits lie above; nothing is sorted. Logits are formed in parts that stay in the cache.
    """
    rows = max(CACHED // hooks.model.config.vocab_size, 1)
    ranks, chances = (torch.empty(tokens.shape, dtype=torch.float64) for _ in range(2))
    above: Tensor | None = None
    for start in range(0, len(normed), rows):
        part = slice(start, start + rows)
        logits = hooks.head(normed[part])
        logits = logits if logits.dtype == torch.float64 else logits.float()
        values = logits.gather(1, tokens[part])
        chances[part] = (values - logits.logsumexp(1, keepdim=True)).double().exp().cpu()
        # Comparisons as numbers, into the same place every time: several times faster than counting booleans.
        above = torch.empty_like(logits) if above is None or len(above) != len(logits) else above
        for k in range(tokens.shape[1]):
            ranks[part, k] = torch.gt(logits, values[:, k : k + 1], out=above).sum(1).double().cpu()
    return ranks, chances


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


def bootstrap(statistic: Callable[[Tensor], Tensor], n: int, seed: int, draws: int = 1000) -> tuple[float, float]:
    """The central 95 % of a statistic of rows that are drawn anew with replacement, from indices (draws, n)."""
    drawn = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(seed))
    values: npt.NDArray[np.float64] = statistic(drawn).double().numpy()
    if not np.isfinite(values).any():
        return float("nan"), float("nan")
    low, high = np.nanquantile(values[np.isfinite(values)], [0.025, 0.975])
    return float(low), float(high)
