"""Rows of chains of steps: each chain is asked for its answer before the first step, and after every one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.corpora.base import Stepwise
from pipeline.corpora.store import StoredCorpus
from pipeline.data.rows import Rows, from_blocks


@dataclass(frozen=True)
class Prefixes(Rows):
    """Rows of which several are parts of one chain, so that no collator can change their prompts."""


def prefixes(corpus: Stepwise, stored: StoredCorpus, outcomes: float, ids: Sequence[int]) -> Prefixes:
    """The trained chains from each of their steps on.

    Args:
        corpus: That which is stored.
        outcomes: Share of the chains of which there are further rows, whose answer is whether they end right.
        ids: The token in the rows of each word of the corpus.
    """
    found = []
    for block in stored.blocks("train"):
        found += corpus.prefixes(block)
        if count := round(outcomes * len(block)):
            found += corpus.outcomes(block.take(slice(0, count)))
    rows = from_blocks(found, stored.tokens.index("<pad>"))
    return Prefixes(torch.as_tensor(ids)[rows.tokens_NT], rows.prompt_N, rows.answer_N)
