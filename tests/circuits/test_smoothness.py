"""Smoothness against cosines taken one by one, and of states that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.circuits.base import Pairs
from pipeline.circuits.smoothness import Smoothness
from tests.circuits.small import random_model, random_pairs, tokens_of


def cosine(one: Any, other: Any) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("kind", ["gpt2", "neox-parallel"])
def test_neighbours_are_compared_as_one_by_one(kind: str) -> None:
    model, plain = random_model(kind), random_pairs()
    lengths = np.array([7, 5, 7, 6, 7, 4])
    pairs = Pairs(plain.clean, plain.corrupted, plain.answers, plain.corrupted_answers, lengths=lengths)
    table = Smoothness().run(model, pairs).to_pylist()
    with torch.no_grad():
        states = model(tokens_of(pairs.clean), output_hidden_states=True).hidden_states
    assert [row["layer"] for row in table] == [0, 1, 2] == list(range(len(states)))
    for row, state_BTD in zip(table, states):
        texts = [state[:length].double().numpy() for state, length in zip(state_BTD, lengths)]
        mean = np.concatenate(texts).mean(0)
        beside = [cosine(text[t] - mean, text[t + 1] - mean) for text in texts for t in range(len(text) - 1)]
        others = [cosine(one - mean, other - mean)
                  for i, text in enumerate(texts) for one in text
                  for j, more in enumerate(texts) if i != j for other in more]  # fmt: skip
        assert row["beside"] == pytest.approx(np.mean(beside), abs=1e-4)
        assert row["any"] == pytest.approx(np.mean(others), abs=0.1)  # a sample of these
        assert row["smoothness"] == pytest.approx((row["beside"] - row["any"]) / (1 - row["any"]))


def test_a_stream_that_stays_is_smooth_and_one_that_jumps_is_not() -> None:
    found = {}
    for repeats in (True, False):
        model: Any = random_model("gpt2")
        with torch.no_grad():  # blocks add nothing, and places are alike, so that states are the tokens'
            model.transformer.wpe.weight.zero_()
            for block in model.transformer.h:
                for part in (block.attn.c_proj, block.mlp.c_proj):
                    part.weight.zero_()
                    part.bias.zero_()
        tokens = np.repeat(np.arange(12), 6).reshape(12, 6) if repeats else random_pairs(12, 6).clean
        pairs = Pairs(tokens.astype(np.int32), tokens.astype(np.int32)[::-1], np.zeros((12, 1), np.int32),
                      np.ones((12, 1), np.int32))  # fmt: skip
        found[repeats] = Smoothness().run(model, pairs)["smoothness"].to_pylist()
    assert found[True] == pytest.approx([1.0] * 3) and max(map(abs, found[False])) < 0.2
