"""Random choices that make a corpus: the same for ever, distinct, even, and of prompts that are told apart."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.corpora.base import columns, count_among, prompt_keys
from pipeline.utils.draws import Draws


def test_draws_stay_what_they_are() -> None:
    # They make every recipe's data: numpy promises the bit stream of PCG64, and the rest is ours.
    draws = Draws(7, "test")
    assert draws.uniform(2).tolist() == [0.30724991126652024, 0.0751677215721902]
    assert draws.below(1000, 2, 2).tolist() == [[896, 207], [350, 343]]
    assert draws.permutation(6).tolist() == [5, 3, 2, 1, 0, 4]
    assert draws.choose(10**6, 3).tolist() == [52456, 129002, 471501]
    assert Draws(7, "other").below(10**6, 1) != Draws(7, "test").below(10**6, 1) != Draws(8, "test").below(10**6, 1)


@pytest.mark.parametrize(("n", "k"), [(0, 0), (1, 0), (1, 1), (10, 3), (10, 10), (1000, 249), (1000, 251), (10**7, 50)])
def test_choices_are_distinct(n: int, k: int) -> None:
    chosen = Draws(3, "test").choose(n, k)
    assert len(set(chosen.tolist())) == len(chosen) == k and all(0 <= number < n for number in chosen)


def test_choices_are_even() -> None:
    draws = Draws(3, "test")
    for k in (20, 60):  # both ways of choosing
        counts = np.bincount(np.concatenate([draws.choose(100, k) for _ in range(500)]), minlength=100)
        assert abs(counts - 5 * k).max() < 5 * (5 * k) ** 0.5


def test_prompt_keys_tell_prompts_apart() -> None:
    grid = np.stack(np.meshgrid(np.arange(60), np.arange(60), np.arange(60), indexing="ij"), axis=-1).reshape(-1, 3)
    keys = np.concatenate([prompt_keys(columns(*grid[:, :width].T)) for width in (1, 2, 3)])
    assert len(np.unique(keys)) == 60 + 60**2 + 60**3
    far = np.sort(prompt_keys(columns(grid[:, 0] + 50_000, grid[:, 1] * 1000, grid[:, 2] * 30_000)))
    assert count_among(keys, far) == 0 and count_among(far, far) == len(far)
