"""Bilinear MLPs against their formula."""

from __future__ import annotations

import pytest
import torch

from pipeline.models.gpt2_bilinear import Gpt2Bilinear

SIZES = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 16, "dropout": 0.0, "initializer_range": 0.3}


def test_an_mlp_is_a_product_of_two_linear_maps() -> None:
    torch.manual_seed(0)
    model = Gpt2Bilinear(**SIZES, n_inner=20).build(24).eval()
    mlp, inputs = model.transformer.h[1].mlp, torch.randn(3, 5, 32)
    weight = mlp.c_fc.weight
    expected = ((inputs @ weight[:, :20]) * (inputs @ weight[:, 20:])) @ mlp.c_proj.weight
    torch.testing.assert_close(mlp(inputs), expected)
    assert not any(part.bias.any() or part.bias.requires_grad for part in (mlp.c_fc, mlp.c_proj))
    tokens = torch.randint(0, 24, (2, 9))
    body = model.transformer
    hidden = body.wte(tokens) + body.wpe(torch.arange(9))
    for block in body.h:
        hidden = hidden + block.attn(block.ln_1(hidden), attention_mask=causal(9))[0]
        left, right = (block.ln_2(hidden) @ block.mlp.c_fc.weight).chunk(2, -1)
        hidden = hidden + (left * right) @ block.mlp.c_proj.weight
    torch.testing.assert_close(model(tokens).logits, body.ln_f(hidden) @ body.wte.weight.T, atol=1e-4, rtol=1e-4)


def causal(length: int) -> torch.Tensor:
    return torch.ones(length, length).tril().bool()[None, None]


def test_it_starts_as_gpt2_does() -> None:
    torch.manual_seed(0)
    model = Gpt2Bilinear(**{**SIZES, "n_embd": 128}).build(24)
    mlp = model.transformer.h[0].mlp
    assert mlp.c_fc.weight.shape == (128, 2 * 512) and mlp.c_proj.weight.shape == (512, 128)
    assert mlp.c_fc.weight.std().item() == pytest.approx(0.3, rel=0.02)
    assert mlp.c_proj.weight.std().item() == pytest.approx(0.3 / 2, rel=0.02)  # 1 / sqrt(2 N) of the residual paths
