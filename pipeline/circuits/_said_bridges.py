"""Facts of two hops whose answers say the bridge first, as chains of one step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.circuits.base import Pairs
from pipeline.corpora.store import StoredCorpus
from pipeline.utils.draws import Draws

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.circuits.hooks import Hooks

UNLIKELY = 1e-6  # what bridges are probable together that are tried only where the answer is as unlikely
SHARE = 1e-4  # of the probability of an answer, most that bridges which are left out could add to it
TOKENS = 1 << 14  # of a forward pass


def said_pairs(stored: StoredCorpus, split: str, most: int, seed: int) -> Pairs | None:
    """At most so many facts of a split whose answers begin with their bridge; None where there are none.

    The notes are `bridge`, and `wrong`, the bridge of another of them. What comes after the bridge is the answer.
    """
    kept = []
    for block in stored.blocks(split):
        bridge_N = block.notes.get("bridge", np.full(len(block), -1))
        is_said = (bridge_N >= 0) & (block.answers[:, 0] == bridge_N) & (block.answers.shape[1] > 1)
        kept.append(block.take(is_said))
    kept = [block for block in kept if len(block)]
    if not kept:
        return None
    block = max(kept, key=len)
    block = block.take(np.sort(Draws(seed, "said bridges").permutation(len(block))[:most]))
    every, place_N = np.unique(block.answers[:, 0], return_inverse=True)
    if len(every) < 2:
        return None
    further_N = 1 + Draws(seed, "wrong bridges").below(len(every) - 1, len(block))
    notes = {"bridge": block.answers[:, 0], "wrong": every[(place_N + further_N) % len(every)]}
    rest, other = block.answers[:, 1:], np.roll(block.prompts, 1, axis=0)
    return Pairs(block.prompts, other, rest, rest, notes=notes)


def said_losses(hooks: Hooks, pairs: Pairs) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The loss of the right answers before and after a bridge is said, of right ones and then of wrong ones.

    Before it is said, the answer is as probable as over all bridges that the model may say. Unlikely ones are left out
    where they cannot add more than `SHARE` to it.

    Returns:
        In nats, (2, 2 n); and the number of the first wrong step of each chain, 0 or 1, (2 n,).
    """
    import torch

    device = hooks.model.device
    prompts_NT, answers_NA = (torch.from_numpy(part).long() for part in (pairs.clean, pairs.answers))
    said_N2 = torch.from_numpy(np.stack([pairs.notes["bridge"], pairs.notes["wrong"]], 1)).long()
    size = max(TOKENS // prompts_NT.shape[1], 1)
    bridge_NV = torch.cat(
        [
            hooks.run(part.to(device), logits_to_keep=1)[:, -1].cpu().double().log_softmax(-1)
            for part in prompts_NT.split(size)
        ]
    )
    likely_NV, order_NV = bridge_NV.exp().sort(descending=True)
    is_kept = torch.zeros_like(bridge_NV, dtype=torch.bool)
    is_kept.scatter_(1, order_NV, likely_NV.cumsum(1) - likely_NV < 1 - UNLIKELY)
    is_kept.scatter_(1, said_N2, True)
    given_NV = torch.full_like(bridge_NV, -torch.inf)  # log probability of the answer after each bridge
    size = max(TOKENS // (prompts_NT.shape[1] + answers_NA.shape[1]), 1)

    def read(is_wanted_NV: Tensor) -> Tensor:
        """The log probability of the answers over all bridges that were read, these among them, (n,)."""
        rows_M, bridges_M = is_wanted_NV.nonzero(as_tuple=True)
        for rows, bridges in zip(rows_M.split(size), bridges_M.split(size)):
            tokens = torch.cat([prompts_NT[rows], bridges[:, None], answers_NA[rows]], 1).to(device)
            log_p = hooks.run(tokens[:, :-1])[:, prompts_NT.shape[1] :].cpu().double().log_softmax(-1)
            given_NV[rows, bridges] = log_p.gather(-1, answers_NA[rows][..., None])[..., 0].sum(1)
        return (bridge_NV + given_NV).logsumexp(1)

    before_N = read(is_kept)
    is_short_N = (bridge_NV.exp() * ~is_kept).sum(1) > SHARE * before_N.exp()
    if is_short_N.any():
        before_N = read(is_short_N[:, None] & ~is_kept)
    after_2N = given_NV.gather(1, said_N2).T
    log_p = torch.stack([before_N.repeat(2), after_2N.flatten()])
    return -log_p.numpy(), np.repeat([0, 1], len(pairs))
