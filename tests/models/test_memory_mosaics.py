"""Memory Mosaics against their formulas, token by token, and their cache with padding, beams and texts in pieces."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.models.gpt2 import Gpt2
from pipeline.models.memory_mosaics import MemoryMosaics

SIZES = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 16, "dropout": 0.0, "initializer_range": 0.3}


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    found: Any = MemoryMosaics(**SIZES, n_memories=11).build(24).eval()
    with torch.no_grad():
        for name, weight in found.named_parameters():
            if weight.ndim == 1:  # scales and decays that differ by head, one decay below 0
                weight += 0.1 * torch.randn_like(weight)
            if name.endswith("keys.decay"):
                weight[0] = -0.07
    return found


def softmax(scores: Any) -> Any:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


def keys_of(memory: Any, h: int, x: Any, power: int) -> list[Any]:
    """The keys of all tokens of a text (T, D), by the recursion of the paper."""
    raw = x @ memory.keys.proj.weight.numpy()[8 * h : 8 * h + 8].T
    kept = math.exp(-abs(10 * memory.keys.decay[h].item()))
    scale = math.exp(min(5.0, 10 * power * memory.keys.scale[h].item()))
    average, found = np.zeros(8), []
    for k in raw:
        average = kept * average + (1 - kept) * k
        found.append(scale * unit(average))
    return found


def recalled(memory: Any, h: int, x: Any) -> Any:
    """What a head of a memory of the text finds at each token."""
    keys, v = keys_of(memory, h, x, 1), x @ memory.value_proj.weight.numpy()[8 * h : 8 * h + 8].T
    own, scale = memory.own[h].item(), math.exp(10 * memory.value_scale[h].item())
    found = np.zeros((len(x), 8))
    for t in range(1, len(x)):
        values = np.stack([scale * unit((1 - own) * v[s + 1] + own * v[s]) for s in range(t)])
        found[t] = softmax(np.array([keys[t] @ keys[s] for s in range(t)])) @ values
    return found


def learned(memory: Any, h: int, x: Any) -> Any:
    """What a head of a learned memory finds at each token."""
    known, values = memory.memory_keys[h].numpy(), memory.memory_values[h].numpy()
    scale = math.exp(10 * memory.value_scale[h].item())
    return np.stack([scale * softmax(known @ key) @ values for key in keys_of(memory, h, x, 2)])


@torch.no_grad()
def test_it_computes_the_formulas_of_the_paper(model: Any) -> None:
    tokens = torch.randint(0, 24, (2, 9))
    for row, logits in zip(tokens, model(tokens).logits):
        hidden = model.transformer.wte.weight[row].numpy().astype(float)
        for layer, memory in enumerate(model.transformer.h):
            normed = memory.ln(torch.from_numpy(hidden).float()).numpy()
            heads = [(learned if layer % 2 else recalled)(memory, h, normed) for h in range(4)]
            hidden = hidden + np.hstack(heads) @ memory.c_proj.weight.numpy().T
        expected = model.lm_head(model.transformer.ln_f(torch.from_numpy(hidden).float()))
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_values_that_peek_ahead_tell_of_nothing_to_come(model: Any) -> None:
    tokens = torch.randint(0, 24, (1, 9))
    logits = model(tokens).logits
    for place in range(1, 9):
        changed = tokens.clone()
        changed[0, place:] = (changed[0, place:] + 1) % 24
        others = model(changed).logits
        assert others[:, :place].equal(logits[:, :place]) and not others[:, place].allclose(logits[:, place])


def test_blocks_are_as_large_as_those_of_gpt2() -> None:
    ours: Any = MemoryMosaics(**{**SIZES, "n_embd": 128}).build(24)
    theirs: Any = Gpt2(**{**SIZES, "n_embd": 128}).build(24)
    size, other = (
        sum(weight.numel() for weight in model.parameters() if weight.ndim > 1) - 24 * 128 for model in (ours, theirs)
    )
    assert size == other - 16 * 128 == 2 * 12 * 128 * 128  # GPT-2 has positions
    for memory in ours.transformer.h:
        assert memory.c_proj.weight.std().item() == pytest.approx(0.3 / 2, rel=0.03)  # 1 / sqrt(2 N) of the paths
        assert memory.keys.proj.weight.std().item() == pytest.approx(0.3, rel=0.03)
        assert memory.keys.decay.tolist() == pytest.approx([0.05, 0.2, 0.35, 0.5])
    assert ours.transformer.h[1].memory_keys.std().item() == pytest.approx(1 / 32**0.5, rel=0.03)
    assert 0 <= ours.transformer.h[0].own.min() < ours.transformer.h[0].own.max() <= 1


def test_every_weight_is_trained(model: Any) -> None:
    tokens = torch.randint(0, 24, (2, 9))
    model(tokens, labels=tokens).loss.backward()
    assert all(weight.grad.isfinite().all() and weight.grad.any() for weight in model.parameters())
