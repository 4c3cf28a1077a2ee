"""KV shifting attention against its formula, and its cache with padding, beams and rotation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

from pipeline.models.gpt2 import Gpt2
from pipeline.models.gpt2_kv_shift import Gpt2KvShift
from pipeline.models.pythia_kv_shift import PythiaKvShift

SIZES = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 16, "dropout": 0.0, "initializer_range": 0.3}


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return Gpt2KvShift(**SIZES).build(24).eval()


@pytest.fixture(params=[Gpt2KvShift, PythiaKvShift])
def either(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return request.param(**SIZES).build(24).eval()


def test_it_computes_the_formula_of_the_paper(model: Any) -> None:
    tokens = torch.randint(0, 24, (3, 9))
    body = model.transformer
    hidden = body.wte(tokens) + body.wpe(torch.arange(9))
    for block in body.h:
        q, k, v = block.attn.c_attn(block.ln_1(hidden)).split(32, dim=-1)
        heads = []
        for h in range(4):
            part = slice(8 * h, 8 * h + 8)
            mixed = []
            for states, (own, previous) in ((k, block.attn.key_shift[:, h]), (v, block.attn.value_shift[:, h])):
                before = torch.cat([torch.zeros(3, 1, 8), states[:, :-1, part]], dim=1)
                mixed.append(own * states[..., part] + previous * before)
            scores = q[..., part] @ mixed[0].mT / 8**0.5
            scores = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
            heads.append(scores.softmax(-1) @ mixed[1])
        hidden = hidden + block.attn.c_proj(torch.cat(heads, -1))
        hidden = hidden + block.mlp.c_proj(F.gelu(block.mlp.c_fc(block.ln_2(hidden)), approximate="tanh"))
    expected = body.ln_f(hidden) @ body.wte.weight.T
    torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=1e-4)


def test_it_adds_four_numbers_a_head_that_start_in_pairs_of_sum_one(model: Any) -> None:
    plain = Gpt2(**SIZES).build(24)
    count = sum(map(torch.numel, model.parameters())) - sum(map(torch.numel, plain.parameters()))
    assert count == 2 * 4 * 4
    for block in model.transformer.h:
        for shift in (block.attn.key_shift, block.attn.value_shift):
            torch.testing.assert_close(shift.sum(0), torch.ones(4))
            assert shift.min() >= 0 and shift[0].std() > 0.05
        assert block.attn.c_proj.weight.std().item() == pytest.approx(0.3 / 2, rel=0.1)  # as GPT-2's, 1 / sqrt(2 N)


def test_without_a_shift_it_is_gpt2(model: Any) -> None:
    plain = Gpt2(**SIZES).build(24).eval()
    assert plain.load_state_dict(model.state_dict(), strict=False).missing_keys == []
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.key_shift.copy_(torch.tensor([[1.0], [0.0]]).expand(2, 4))
            block.attn.value_shift.copy_(torch.tensor([[1.0], [0.0]]).expand(2, 4))
    tokens = torch.randint(0, 24, (3, 9))
    torch.testing.assert_close(model(tokens).logits, plain(tokens).logits)


def test_keys_are_mixed_before_they_are_rotated() -> None:
    torch.manual_seed(0)
    model: Any = PythiaKvShift(**SIZES, rotary_pct=0.5).build(24).eval()
    tokens = torch.randint(0, 24, (3, 9))
    body = model.gpt_neox
    hidden = body.embed_in(tokens)
    rotation = body.rotary_emb(hidden, position_ids=torch.arange(9)[None])
    for layer in body.layers:
        attention = layer.attention
        states = attention.query_key_value(layer.input_layernorm(hidden)).view(3, 9, 4, 24).transpose(1, 2)
        q, k, v = states.chunk(3, -1)
        k, v = (
            own[:, None, None] * part + previous[:, None, None] * F.pad(part, (0, 0, 1, -1))
            for part, (own, previous) in ((k, attention.key_shift), (v, attention.value_shift))
        )
        q, k = apply_rotary_pos_emb(q, k, *rotation)
        scores = (q @ k.mT / 8**0.5).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        hidden = hidden + attention.dense(mixed) + layer.mlp(layer.post_attention_layernorm(hidden))
    expected = model.get_output_embeddings()(body.final_layer_norm(hidden))
    torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=1e-4)
