"""Grokfast, the orthogonal and the egalitarian gradient, against their formulas."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch

from pipeline.optim.base import attach
from pipeline.optim.egalitarian import Egalitarian
from pipeline.optim.grokfast import Grokfast
from pipeline.optim.orthogonal import Orthogonal


def trained_by_hand(grokfast: Grokfast, steps: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The gradients of a parameter as they were set, and as plain gradient descent then used them."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(3, 2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    attach(optimizer, {"grokfast": grokfast})
    given, used = [], []
    for _ in range(steps):
        before = weight.detach().clone()
        weight.grad = torch.randn(3, 2)
        given.append(weight.grad.clone())
        optimizer.step()
        used.append(before - weight.detach())
    return given, used


def test_the_exponential_average_is_added() -> None:
    given, used = trained_by_hand(Grokfast("ema", alpha=0.9, lamb=3.0), 20)
    average = given[0]
    for number, (gradient, change) in enumerate(zip(given, used)):
        average = gradient if number == 0 else 0.9 * average + 0.1 * gradient
        torch.testing.assert_close(change, gradient + 3.0 * average, rtol=0, atol=1e-5)


def test_the_average_of_a_window_is_added_once_the_window_is_full() -> None:
    given, used = trained_by_hand(Grokfast("ma", window=4, lamb=3.0), 20)
    window: deque[torch.Tensor] = deque(maxlen=4)
    for gradient, change in zip(given, used):
        window.append(gradient)
        slow = torch.stack(list(window)).mean(0) if len(window) == 4 else torch.zeros(3, 2)
        torch.testing.assert_close(change, gradient + 3.0 * slow, rtol=0, atol=1e-5)


def test_the_orthogonal_gradient() -> None:
    torch.manual_seed(0)
    weight, gradient = torch.randn(5, 4), torch.randn(5, 4)
    norm, along = gradient.norm(), (weight * gradient).sum() / weight.norm() ** 2
    expected = gradient - along * weight
    Orthogonal()([gradient], [weight])
    assert float((gradient * weight).sum()) == pytest.approx(0, abs=1e-5)
    assert float(gradient.norm()) == pytest.approx(float(norm), rel=1e-6)
    torch.testing.assert_close(gradient, expected * norm / expected.norm())
    # Weights that are zero, such as fresh biases, have no direction to take away.
    gradient = torch.tensor([3.0, 4.0])
    Orthogonal()([gradient], [torch.zeros(2)])
    assert gradient.tolist() == pytest.approx([3.0, 4.0])


def test_the_egalitarian_gradient_goes_equally_far_in_all_directions() -> None:
    torch.manual_seed(0)
    gradient, bias = torch.randn(5, 3) * torch.tensor([1.0, 10.0, 100.0]), torch.randn(3)
    norm, given = float(gradient.norm()), gradient.numpy().astype(np.float64)
    # The polar factor, U V^T, is G (G^T G)^(-1/2).
    values, vectors = np.linalg.eigh(given.T @ given)
    expected = given @ vectors @ np.diag(values**-0.5) @ vectors.T
    before = bias.clone()
    Egalitarian()([gradient, bias], [torch.zeros(5, 3), torch.zeros(3)])
    np.testing.assert_allclose(gradient.numpy(), expected * norm / 3**0.5, rtol=1e-4, atol=1e-3 * norm)
    assert float(gradient.norm()) == pytest.approx(norm, rel=1e-5) and bias.equal(before)
    # A rank that is not full stays so, and nothing comes of nothing.
    gradient = torch.outer(torch.tensor([3.0, 0, 4]), torch.tensor([1.0, 2]))
    given = gradient.numpy().copy()
    Egalitarian()([gradient], [gradient])
    np.testing.assert_allclose(gradient.numpy(), given, atol=1e-5)
    zero = torch.zeros(3, 2)
    Egalitarian()([zero], [zero])
    assert zero.equal(torch.zeros(3, 2))
