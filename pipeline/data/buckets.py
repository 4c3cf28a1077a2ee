"""Batches of rows that differ in length, cut so that little of what is computed is padding.

A causal model never sees right padding from an answer position, so it changes nothing but the time. Rows of two-hop
facts differ by a token, and batches of theirs stay whole; sentences beside blocks of text are cut apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

WORTH = 0.1  # least share of tokens that one more piece has to save
MOST = 4  # pieces of a batch


@dataclass(frozen=True)
class Shape:
    """What rows of a batch share: `width` tokens, at most `answer` of them an answer, all as many if `is_even`.

    `tail`: the answer tokens, where they are the last ones of every row; None where rows differ.
    """

    width: int
    answer: int
    is_even: bool
    tail: int | None

    @classmethod
    def of(cls, prompt_N: torch.Tensor, answer_N: torch.Tensor) -> Shape:
        """The shape of rows with these lengths in tokens."""
        length_N, answer = prompt_N + answer_N, int(answer_N.max())
        is_even, is_full = int(answer_N.min()) == answer, int(length_N.min()) == int(length_N.max())
        return cls(int(length_N.max()), answer, is_even, answer if is_even and is_full else None)


def widths(length_N: torch.Tensor) -> list[int]:
    """Widths of the pieces that batches of rows with these lengths are cut into, ascending; a row is in the first
    that it fits in.

    Each next one is that which saves most tokens, as long as it saves a tenth of them.
    """
    found, counts = length_N.unique(return_counts=True)
    chosen = [int(found[-1])]

    def tokens(bounds: list[int]) -> int:
        bound_N = torch.tensor(sorted(bounds))
        return int((bound_N[torch.bucketize(found, bound_N)] * counts).sum())

    while len(chosen) < MOST:
        others = [bound for bound in found.tolist() if bound not in chosen]
        if not others:
            break
        best = min(others, key=lambda bound: tokens([*chosen, bound]))
        if tokens([*chosen, best]) > (1 - WORTH) * tokens(chosen):
            break
        chosen.append(best)
    return sorted(chosen)
