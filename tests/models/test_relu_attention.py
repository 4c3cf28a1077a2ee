"""Attention with a ReLU against its formula, with padding, and with caches in pieces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import DynamicCache, StaticCache

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


def test_padding_on_the_left_changes_nothing(model: Any) -> None:
    tokens = torch.randint(0, 24, (2, 6))
    padded = torch.cat([torch.full((2, 3), 5), tokens], 1)
    mask = (torch.arange(9) >= 3).long().expand(2, 9)
    place = (mask.cumsum(1) - 1).clamp(min=0)
    alone = model(tokens).logits
    torch.testing.assert_close(model(padded, attention_mask=mask, position_ids=place).logits[:, 3:], alone)
    decoded = model.generate(tokens, max_new_tokens=6, do_sample=False)
    both = model.generate(padded, attention_mask=mask, max_new_tokens=6, do_sample=False)
    assert both[:, 9:].equal(decoded[:, 6:])


@pytest.mark.parametrize("cache", [DynamicCache, StaticCache])
def test_a_text_in_pieces_is_the_text(model: Any, cache: Any) -> None:
    tokens = torch.randint(0, 24, (2, 10))
    past = cache(config=model.config, **({"max_cache_len": 12} if cache is StaticCache else {}))
    parts = [model(piece, past_key_values=past, use_cache=True).logits for piece in tokens.split([4, 1, 3, 2], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens).logits)


def test_it_starts_as_gpt2_does() -> None:
    torch.manual_seed(0)
    model: Any = Gpt2ReluAttention(**{**SIZES, "n_embd": 128}).build(24)
    attention = model.transformer.h[0].attn
    assert attention.c_attn.weight.std().item() == pytest.approx(0.3, rel=0.02)
    assert attention.c_proj.weight.std().item() == pytest.approx(0.3 / 2, rel=0.02)  # 1 / sqrt(2 N) of the paths
    assert not attention.c_attn.bias.any() and not attention.c_proj.bias.any()
