"""The losses of tokens, against their formulas and torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.data.labels import IGNORED
from pipeline.objectives.next_token import NextToken
from pipeline.utils.errors import ParameterError


def test_stablemax_is_its_formula_and_keeps_a_gradient() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 2, 9) * 4, torch.randint(9, (6, 2))
    labels[3, 1] = IGNORED
    losses = NextToken(loss="stablemax").token_losses(logits, labels)
    for row in range(6):
        for place in range(2):
            s = [x + 1 if x >= 0 else 1 / (1 - x) for x in logits[row, place].double()]
            y = int(labels[row, place])
            expected = 0.0 if y == IGNORED else -float((s[y] / sum(s)).log())
            assert float(losses[row, place]) == pytest.approx(expected, rel=1e-12)
    far = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    NextToken(loss="stablemax").token_losses(far, torch.tensor([0])).sum().backward()
    assert far.grad is not None and far.grad.all()  # a softmax would have none left
    zero = torch.zeros(1, 4, requires_grad=True)
    NextToken(loss="stablemax").token_losses(zero, torch.tensor([0])).sum().backward()
    assert zero.grad is not None and zero.grad[0].tolist() == pytest.approx([-0.75, 0.25, 0.25, 0.25])


def test_cross_entropy_is_torch_s_and_zero_where_ignored() -> None:
    logits, labels = torch.randn(4, 3, 7), torch.randint(7, (4, 3))
    torch.testing.assert_close(
        NextToken().token_losses(logits, labels),
        F.cross_entropy(logits.transpose(1, 2), labels, reduction="none"),
    )
    labels[1] = IGNORED
    assert not NextToken().token_losses(logits.bfloat16(), labels)[1].any()


def test_smoothed_targets_are_a_mixture_with_all_words() -> None:
    logits, labels = torch.randn(5, 2, 8), torch.randint(8, (5, 2))
    labels[2, 0] = IGNORED
    losses = NextToken(label_smoothing=0.3).token_losses(logits, labels)
    target = 0.7 * F.one_hot(labels.clamp(min=0), 8) + 0.3 / 8
    expected = -(target * logits.log_softmax(-1)).sum(-1).masked_fill(labels == IGNORED, 0)
    torch.testing.assert_close(losses, expected)
    with pytest.raises(ParameterError, match=r"label_smoothing.*cross_entropy, not stablemax"):
        NextToken(label_smoothing=0.3, loss="stablemax")
