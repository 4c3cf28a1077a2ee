"""Attention with a ReLU against its formula, with padding, and with caches in pieces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from pipeline.models.gpt2_relu_attention import Gpt2ReluAttention

SIZES = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 16, "dropout": 0.0, "initializer_range": 0.3}


@pytest.fixture(params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    found: Any = Gpt2ReluAttention(**SIZES).build(24).eval()
    found.set_attn_implementation(request.param)
    return found


def test_it_computes_the_formula_of_the_paper(model: Any) -> None:
    tokens = torch.randint(0, 24, (3, 9))
    body = model.transformer
    hidden = body.wte(tokens) + body.wpe(torch.arange(9))
    for block in body.h:
        q, k, v = (part.unflatten(-1, (4, 8)) for part in block.attn.c_attn(block.ln_1(hidden)).split(32, dim=-1))
        mixed = torch.zeros(3, 9, 4, 8)
        for place in range(9):
            for other in range(place + 1):
                score = (q[:, place] * k[:, other]).sum(-1, keepdim=True) / 8**0.5
                mixed[:, place] += score.clamp(min=0) / (place + 1) * v[:, other]
        hidden = hidden + block.attn.c_proj(mixed.flatten(2))
        hidden = hidden + block.mlp.c_proj(F.gelu(block.mlp.c_fc(block.ln_2(hidden)), approximate="tanh"))
    expected = body.ln_f(hidden) @ body.wte.weight.T
    torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=1e-4)


def test_it_starts_as_gpt2_does() -> None:
    torch.manual_seed(0)
    model: Any = Gpt2ReluAttention(**{**SIZES, "n_embd": 128}).build(24)
    attention = model.transformer.h[0].attn
    assert attention.c_attn.weight.std().item() == pytest.approx(0.3, rel=0.02)
    assert attention.c_proj.weight.std().item() == pytest.approx(0.3 / 2, rel=0.02)  # 1 / sqrt(2 N) of the paths
    assert not attention.c_attn.bias.any() and not attention.c_proj.bias.any()
