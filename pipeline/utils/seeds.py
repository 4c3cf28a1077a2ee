"""Which random stream each choice of a run is drawn from: one of its own, by purpose, seed and place in the run.

`SEEDS` says which seed moves what. Rows are drawn with `Draws`, weights and dropout by torch's global generators.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from pipeline.utils.draws import Draws, Numbers

if TYPE_CHECKING:
    import torch

VERSION = 2  # of the streams that training draws from; 1: the order of rows followed from the epoch alone

SEEDS = {
    "seed": "initial weights, dropout, what a collator draws and, where data_seed is not given, the order of rows",
    "data_seed": "the order of rows, and nothing else",
    "corpus.seed": "the corpus: its facts, splits and label noise, and with them all that is drawn from it",
    "circuits.NAME.seed": "the pairs of an analysis, and what else it draws",
    "(none)": "the training rows of the probe and those of max_eval_samples: the same in all runs of a corpus",
}


def row_order(rows: int, seed: int, epoch: int) -> torch.Tensor:
    """Draw the order in which an epoch takes its rows, (rows,), as a function of the arguments alone."""
    import torch

    # Six times as fast as `Draws.permutation`, of which no step should be aware; numpy may change it some day.
    return torch.from_numpy(np.random.Generator(Draws(seed, "order of rows", epoch).bits).permutation(rows))


def sample(rows: int, most: int | None, split: str, purpose: str = "evaluation") -> Numbers | None:
    """Draw which rows of a split are looked at, in ascending order; None where that is all of them.

    The same ones every time; those of a smaller `most` are among those of a larger one.
    """
    if most is None or most >= rows:
        return None
    return np.sort(Draws(0, f"{purpose} of {split}").permutation(rows)[:most])


def seed_weights(seed: int) -> None:
    """Seed the global generators for a model that is built next, as plain transformers would."""
    from transformers import set_seed

    set_seed(seed)


def seed_dropout(seed: int, process: int, step: int) -> None:
    """Seed torch's global generators for dropout from a step on; processes, which hold other rows, differ."""
    import torch

    torch.manual_seed(torch_seed("dropout", seed, process, step))


def torch_seed(purpose: str, seed: int, *place: int) -> int:
    """Derive a seed for torch's generators, below 2**63.

    A generator on the CPU keeps its low 32 bits only; they differ for any two seeds below 2**32.
    """
    digest = hashlib.sha256("/".join(map(str, (purpose, *place))).encode()).digest()
    high = hashlib.sha256(digest + str(seed).encode()).digest()[:4]
    low = int.from_bytes(digest[:4], "little") ^ (seed & 0xFFFFFFFF)
    return (int.from_bytes(high, "little") >> 1) << 32 | low
