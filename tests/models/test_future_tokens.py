"""Tokens ahead against the formulas of decoder and linear heads, state by state; and that none is seen too early."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from pipeline.models.gpt2_future_tokens import Gpt2FutureTokens

SIZES = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 16, "dropout": 0.0, "initializer_range": 0.3}
AHEAD = {"n_future": 3, "n_pseudo": 2, "n_decoder_layer": 2}


def made(heads: str) -> Any:
    torch.manual_seed(0)
    return Gpt2FutureTokens(**SIZES, **AHEAD, heads=heads).build(24).eval()


@pytest.fixture(params=["decoder", "linear"])
def model(request: pytest.FixtureRequest) -> Any:
    return made(request.param)


def attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """What one query (D,) finds among keys and values (K, D) with four heads."""
    found = []
    for h in range(4):
        part = slice(8 * h, 8 * h + 8)
        weights = (key[:, part] @ query[part] / 8**0.5).softmax(0)
        found.append(weights @ value[:, part])
    return torch.cat(found)


@torch.no_grad()
def test_the_decoder_reads_a_state_as_a_sequence() -> None:
    model = made("decoder")
    tokens = torch.randint(0, 24, (2, 9))
    output, decoder = model(tokens, future=True), model.future
    states = model.transformer(tokens).last_hidden_state
    for b, t in ((0, 0), (0, 4), (1, 6)):
        pseudo = (decoder.expand.weight @ states[b, t] + decoder.expand.bias).view(2, 32)
        hidden = [model.transformer.wte.weight[tokens[b, t + n]] + decoder.places.weight[n] for n in range(3)]
        for block in decoder.blocks:
            qkv = [block.qkv(block.ln_1(each)) for each in hidden]
            key, value = (torch.stack([each[start : start + 32] for each in qkv]) for start in (32, 64))
            hidden = [
                each + block.proj(attended(qkv[n][:32], key[: n + 1], value[: n + 1])) for n, each in enumerate(hidden)
            ]
            key, value = block.key_value(pseudo).split(32, -1)
            hidden = [each + block.cross_proj(attended(block.query(block.ln_2(each)), key, value)) for each in hidden]
            first, _, last = block.mlp
            hidden = [each + last(F.gelu(first(block.ln_3(each)), approximate="tanh")) for each in hidden]
        expected = torch.stack([model.lm_head(decoder.ln_f(each)) for each in hidden])
        torch.testing.assert_close(output.logits[b, t], expected[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(output.future_logits[b, t], expected[1:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_linear_heads_read_a_state_as_it_is() -> None:
    model = made("linear")
    tokens = torch.randint(0, 24, (2, 9))
    output, states = model(tokens, future=True), model.transformer(tokens).last_hidden_state
    torch.testing.assert_close(output.logits, states @ model.transformer.wte.weight.T)
    for ahead, head in enumerate(model.future.maps):
        expected = (states @ head.weight.T + head.bias) @ model.transformer.wte.weight.T
        torch.testing.assert_close(output.future_logits[:, :, ahead], expected)
    assert len(model.future.maps) == 2


def test_no_token_is_seen_before_it_is_told(model: Any) -> None:
    tokens = torch.randint(0, 24, (1, 9))
    before = model(tokens, future=True)
    for place in range(1, 9):
        changed = tokens.clone()
        changed[0, place:] = (changed[0, place:] + 1) % 24
        after = model(changed, future=True)
        assert after.logits[:, :place].allclose(before.logits[:, :place], atol=1e-5)
        assert not after.logits[:, place].allclose(before.logits[:, place], atol=1e-2)
        for ahead in (1, 2):  # the token so far ahead of a place is told from those before it
            known = max(place - ahead, 0)
            one, other = (found.future_logits[:, :known, ahead - 1] for found in (before, after))
            assert one.allclose(other, atol=1e-5)


def test_the_next_token_is_the_same_alone_and_with_others_ahead(model: Any) -> None:
    tokens = torch.randint(0, 24, (3, 9))
    torch.testing.assert_close(model(tokens).logits, model(tokens, future=True).logits)
    assert model(tokens).future_logits is None
    loss = F.cross_entropy(model(tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(model(tokens, labels=tokens).loss, loss)
    assert model(tokens, return_dict=False)[0].equal(model(tokens).logits)
    assert model(tokens, logits_to_keep=2).logits.allclose(model(tokens).logits[:, -2:], atol=1e-5)
