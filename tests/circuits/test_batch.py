"""Ranks and probabilities from tiles of logits against whole rows of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.circuits._batch import standing
from pipeline.circuits.hooks import Hooks
from tests.circuits.small import VOCABULARY, random_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("n", [1, 4, 11])
def test_standing_is_that_in_whole_rows(
    n: int, bias: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.circuits._batch.ROWS", 4)
    monkeypatch.setattr("pipeline.circuits._batch.TOKENS", 7)
    hooks = Hooks(random_model("neox-parallel").to(dtype))
    hooks.head = nn.Linear(32, VOCABULARY, bias=bias, dtype=dtype)
    states, tokens = torch.randn(n, 32, dtype=dtype), torch.randint(VOCABULARY, (n, 3))
    with torch.no_grad():
        ranks, chances = standing(hooks, states, tokens)
        logits = nn.functional.linear(*(part.double() for part in (states, hooks.head.weight)))
        logits += hooks.head.bias.double() if bias else 0
    order = logits.argsort(dim=1, descending=True)
    assert ranks.tolist() == [
        [order[i].tolist().index(token) for token in row] for i, row in enumerate(tokens.tolist())
    ]
    torch.testing.assert_close(chances, logits.softmax(1).gather(1, tokens), atol=1e-6, rtol=1e-5)


def test_logits_that_are_all_alike_have_none_above() -> None:
    hooks = Hooks(random_model("neox-parallel"))
    hooks.head = nn.Linear(32, VOCABULARY, bias=False)
    nn.init.zeros_(hooks.head.weight)
    with torch.no_grad():
        ranks, chances = standing(hooks, torch.randn(3, 32), torch.tensor([[0], [5], [23]]))
    assert ranks.tolist() == [[0]] * 3
    torch.testing.assert_close(chances, torch.full((3, 1), 1 / VOCABULARY, dtype=torch.float64))
