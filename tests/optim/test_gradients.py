"""Grokfast, StableMax and the orthogonal gradient: their formulas, and that a run with them resumes bit by bit."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from pipeline.config.recipe import Options
from pipeline.data.rows import IGNORED
from pipeline.optim.gradients import attach, check_sharding, make_orthogonal, token_losses
from pipeline.utils.errors import ParameterError
from tests.test_run import FINAL, same_weights
from tests.tiny import run_here, write_recipe


def trained_by_hand(options: Options, steps: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The gradients of a parameter as they were set, and as plain gradient descent then used them."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(3, 2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    attach(optimizer, options)
    given, used = [], []
    for _ in range(steps):
        before = weight.detach().clone()
        weight.grad = torch.randn(3, 2)
        given.append(weight.grad.clone())
        optimizer.step()
        used.append(before - weight.detach())
    return given, used


def test_the_exponential_average_is_added() -> None:
    given, used = trained_by_hand(Options(grokfast="ema", grokfast_alpha=0.9, grokfast_lamb=3.0), 20)
    average = given[0]
    for number, (gradient, change) in enumerate(zip(given, used)):
        average = gradient if number == 0 else 0.9 * average + 0.1 * gradient
        torch.testing.assert_close(change, gradient + 3.0 * average, rtol=0, atol=1e-5)


def test_the_average_of_a_window_is_added_once_the_window_is_full() -> None:
    given, used = trained_by_hand(Options(grokfast="ma", grokfast_window=4, grokfast_lamb=3.0), 20)
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
    make_orthogonal([gradient], [weight])
    assert float((gradient * weight).sum()) == pytest.approx(0, abs=1e-5)
    assert float(gradient.norm()) == pytest.approx(float(norm), rel=1e-6)
    torch.testing.assert_close(gradient, expected * norm / expected.norm())
    # Weights that are zero, such as fresh biases, have no direction to take away.
    gradient = torch.tensor([3.0, 4.0])
    make_orthogonal([gradient], [torch.zeros(2)])
    assert gradient.tolist() == pytest.approx([3.0, 4.0])


def test_stablemax_is_its_formula_and_keeps_a_gradient() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 2, 9) * 4, torch.randint(9, (6, 2))
    labels[3, 1] = IGNORED
    losses = token_losses(logits, labels, "stablemax")
    for row in range(6):
        for place in range(2):
            s = [x + 1 if x >= 0 else 1 / (1 - x) for x in logits[row, place].double()]
            y = int(labels[row, place])
            expected = 0.0 if y == IGNORED else -float((s[y] / sum(s)).log())
            assert float(losses[row, place]) == pytest.approx(expected, rel=1e-12)
    far = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    token_losses(far, torch.tensor([0]), "stablemax").sum().backward()
    assert far.grad is not None and far.grad.all()  # a softmax would have none left
    zero = torch.zeros(1, 4, requires_grad=True)
    token_losses(zero, torch.tensor([0]), "stablemax").sum().backward()
    assert zero.grad is not None and zero.grad[0].tolist() == pytest.approx([-0.75, 0.25, 0.25, 0.25])


def test_cross_entropy_is_torch_s_and_zero_where_ignored() -> None:
    logits, labels = torch.randn(4, 3, 7), torch.randint(7, (4, 3))
    torch.testing.assert_close(
        token_losses(logits, labels, "cross_entropy"),
        F.cross_entropy(logits.transpose(1, 2), labels, reduction="none"),
    )
    labels[1] = IGNORED
    assert not token_losses(logits.bfloat16(), labels, "cross_entropy")[1].any()


@pytest.mark.parametrize(
    "words",
    [
        ("--grokfast", "ema"),
        ("--grokfast", "ma", "--grokfast_window", "5"),
        ("--loss", "stablemax", "--orthogonal_gradient", "true"),
    ],
    ids=["ema", "ma", "prieto"],
)
def test_a_run_with_them_resumes_to_the_same_weights(words: tuple[str, ...], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    assert run_here(recipe, *words, "--output_dir", str(straight)) == 0
    assert run_here(recipe, *words, "--output_dir", str(parts), "--max_steps", "13") == 0
    assert run_here(recipe, *words, "--output_dir", str(parts)) == 0
    assert same_weights(parts / FINAL, straight / FINAL)
    # It trained something else than the plain recipe.
    assert run_here(recipe, "--output_dir", str(tmp_path / "plain")) == 0
    assert not same_weights(tmp_path / "plain" / FINAL, straight / FINAL)


def test_they_are_part_of_what_a_run_folder_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path)
    assert run_here(recipe, "--max_steps", "2") == 0
    assert run_here(recipe, "--grokfast", "ema") == 2
    assert "grokfast: off there, ema here" in capsys.readouterr().err


def test_sharded_gradients_are_refused() -> None:
    for options in (Options(grokfast="ma"), Options(orthogonal_gradient=True)):
        check_sharding(options, sharded=False)
        with pytest.raises(ParameterError, match="needs whole gradients"):
            check_sharding(options, sharded=True)
    check_sharding(Options(), sharded=True)
