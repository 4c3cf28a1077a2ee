"""The compiled update under dropout: its masks, what they do to losses and gradients, and its bits."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from pipeline.kernels.native_code import load
from tests.kernels.test_compiled import MIXED, UNEVEN, batch_of, loss_of, model_of, rows_of, step_of


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_masks_drop_their_share_independently(p: float) -> None:
    library, dropped, count = load(), round(p * 65536), 1001
    rows = []
    for key, site in ((1, 0), (1, 1), (2, 0)):
        for row in range(100):
            factors = torch.empty(count)
            library.groklab_factors(
                ctypes.c_uint64(key), ctypes.c_uint64(site), ctypes.c_int64(dropped), ctypes.c_int64(row),
                ctypes.c_int64(count), ctypes.c_void_p(factors.data_ptr()),
            )  # fmt: skip
            rows.append(factors)
    factors = torch.stack(rows).view(3, 100, count)
    assert factors.unique().tolist() == pytest.approx([0.0, 1 / (1 - dropped / 65536)], rel=1e-6)
    is_zero = (factors == 0).float()
    assert is_zero.mean((1, 2)).tolist() == pytest.approx([p] * 3, abs=5 * (p * (1 - p) / is_zero[0].numel()) ** 0.5)
    off = is_zero - is_zero.mean()
    # Beside each other, rows above each other, two sites, and two keys.
    pairs = [
        (off[..., 1:], off[..., :-1]), (off[..., 4:], off[..., :-4]), (off[:, 1:], off[:, :-1]),
        (off[0], off[1]), (off[0], off[2]),
    ]  # fmt: skip
    for one, other in pairs:
        assert abs(float((one * other).mean())) < 5 * p * (1 - p) / one.numel() ** 0.5


PLACES = [
    ("gpt2", "embedding"), ("gpt2", "attention"), ("gpt2", "residual"),
    ("parallel", "embedding"), ("parallel", "attention"), ("parallel", "residual"), ("sequential", "residual"),
]  # fmt: skip


def with_dropout(kind: str, place: str, p: float) -> PreTrainedModel:
    """A model that drops values at one kind of place."""
    model: Any = model_of(kind)
    rates = {**dict.fromkeys(("embedding", "attention", "residual"), 0.0), place: p}
    if kind == "gpt2":
        model.transformer.drop.p = rates["embedding"]
        for block in model.transformer.h:
            block.attn.attn_dropout.p = rates["attention"]
            block.attn.resid_dropout.p = block.mlp.dropout.p = rates["residual"]
        return model
    model.gpt_neox.emb_dropout.p = rates["embedding"]
    for block in model.gpt_neox.layers:
        block.attention.attention_dropout = rates["attention"]
        block.post_attention_dropout.p = block.post_mlp_dropout.p = rates["residual"]
    return model


@pytest.mark.parametrize(("kind", "place"), PLACES)
def test_losses_and_gradients_under_dropout_are_distributed_as_those_of_torch(kind: str, place: str) -> None:
    model, batch, draws = with_dropout(kind, place, 0.3), batch_of(rows_of(MIXED[5:15])), 150
    step, plain = step_of(model), loss_of(with_dropout(kind, place, 0.0), batch).item()
    ours, theirs = torch.empty(2, draws), torch.empty(2, draws)
    torch.manual_seed(1)
    for draw in range(draws):
        ours[0, draw] = step.backward(batch, 1.0, draw)
        ours[1, draw] = step.flat.norm()
        model.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        theirs[0, draw] = loss.detach()
        theirs[1, draw] = torch.cat([weight.grad.flatten() for weight in model.parameters()]).norm()
    for one, other in zip(ours, theirs):
        assert float(abs(one.mean() - other.mean())) < 4 * float(((one.var() + other.var()) / draws) ** 0.5)
        assert 0.6 < float(one.std() / other.std()) < 1.6
    assert float(ours[0].std()) > 1e-3 * plain


@pytest.mark.parametrize(("kind", "place"), PLACES)
def test_the_backward_pass_drops_what_the_forward_pass_did(kind: str, place: str) -> None:
    """The slope of the loss along a direction, with the same masks, by differences."""
    model, batch = with_dropout(kind, place, 0.4), batch_of(rows_of(UNEVEN))
    step, weights = step_of(model), list(model.parameters())
    step.backward(batch, 1.0, 5)
    draw = torch.Generator().manual_seed(2)
    way = [torch.randn(weight.shape, generator=draw) + 3 * weight.grad for weight in weights]
    expected = sum(float((weight.grad * part).sum()) for weight, part in zip(weights, way))
    losses = []
    for move in (1e-4, -2e-4):
        with torch.no_grad():
            torch._foreach_add_(weights, way, alpha=move)
        losses.append(step.backward(batch, 1.0, 5).item())
    assert (losses[0] - losses[1]) / 2e-4 == pytest.approx(expected, rel=2e-2)


@pytest.mark.parametrize("kind", ["gpt2", "parallel", "sequential"])
def test_bits_follow_from_the_key_and_the_number_of_threads(kind: str) -> None:
    model, batch = with_dropout(kind, "residual", 0.2), batch_of(rows_of(UNEVEN))
    step, threads = step_of(model), torch.get_num_threads()

    def gradients(key: int) -> torch.Tensor:
        step.backward(batch, 1.0, key)
        return step.flat.clone()

    one = gradients(1)
    assert gradients(2).ne(one).any() and gradients(1).equal(one)
    try:
        torch.set_num_threads(2)
        two = gradients(1)
        assert gradients(1).equal(two)
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
    finally:
        torch.set_num_threads(threads)
