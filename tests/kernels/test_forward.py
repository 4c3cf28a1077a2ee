"""The forward of the training step gives what transformers' gives, for every architecture and every kind of row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedModel

from pipeline.corpora.composition import Composition
from pipeline.corpora.store import build
from pipeline.data.rows import Batch, Rows, load_rows
from pipeline.kernels import forward
from pipeline.kernels.forward import attend, dropout, install, short_logits, stock_logits
from pipeline.models.gpt2 import Gpt2
from tests.data.test_rows import MODELS, SIZES

NAMES = ["gpt2", "bare", "looped", "pythia", "pythia-sequential"]


@pytest.fixture(scope="module")
def rows() -> Rows:
    corpus = Composition(num_entities=40, num_relations=8, out_degree=4, ratio=2, ood_fraction=0.2, seed=3)
    return load_rows(build(corpus), "train")


@pytest.fixture(scope="module")
def batch(rows: Rows) -> Batch:
    batch = rows.__getitems__(torch.arange(0, len(rows), 9))
    assert len(batch["positions"].unique(dim=0)) == 2  # answers stand at two places
    return batch


def model_of(architecture: Any, rows: Rows) -> PreTrainedModel:
    torch.manual_seed(0)
    return architecture.build(int(rows.tokens_NT.max()) + 1)


def with_gradients(model: PreTrainedModel, logits: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.zero_grad()
    logits.logsumexp(-1).sum().backward()
    return logits.detach(), [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


@pytest.mark.parametrize("short", [8, 2], ids=["written out", "by kernel"])
@pytest.mark.parametrize("architecture", MODELS, ids=NAMES)
def test_logits_and_gradients_are_those_of_transformers(
    architecture: Any, short: int, rows: Rows, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "SHORT", short)
    model = model_of(architecture, rows)
    theirs, their_gradients = with_gradients(model, stock_logits(model, batch))
    whole = model(input_ids=batch["input_ids"]).logits
    install(model)
    ours, gradients = with_gradients(model, short_logits(model, batch))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-6)
    for one, other in zip(gradients, their_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert model(input_ids=batch["input_ids"]).logits.equal(whole)  # without answers the model is as it was
    # Answers at the end of every row need no positions.
    assert batch["tail"] is None
    chosen = rows.prompt_N == rows.prompt_N.max()
    same = Rows(rows.tokens_NT[chosen], rows.prompt_N[chosen], rows.answer_N[chosen]).first(20)
    batch = same.__getitems__(torch.arange(20))
    assert batch["tail"] == 2
    torch.testing.assert_close(short_logits(model, batch), stock_logits(model, batch), rtol=0, atol=3e-6)


@given(p=st.sampled_from([0.05, 0.1, 0.5]), seed=st.integers(0, 100))
def test_dropout_drops_its_share_and_keeps_the_mean(p: float, seed: int) -> None:
    torch.manual_seed(seed)
    hidden = torch.ones(401, 251, requires_grad=True)
    dropped = dropout(hidden, p, training=True)
    share = float((dropped == 0).float().mean())
    assert share == pytest.approx(p, abs=5 * (p * (1 - p) / hidden.numel()) ** 0.5)
    assert dropped[dropped != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-4)
    dropped.sum().backward()
    assert hidden.grad is not None and hidden.grad.equal(dropped)  # a value that is dropped learns nothing
    # Values beside each other, which share a draw, are dropped independently.
    both = float(((dropped[:, 1:] == 0) & (dropped[:, :-1] == 0)).float().mean())
    assert both == pytest.approx(p * p, abs=6 * (p * p / hidden.numel()) ** 0.5)


def test_dropout_is_decided_by_the_generator_and_off_in_evaluation() -> None:
    hidden = torch.randn(7, 5)
    torch.manual_seed(1)
    one, two = dropout(hidden, 0.3, training=True), dropout(hidden, 0.3, training=True)
    torch.manual_seed(1)
    assert dropout(hidden, 0.3, training=True).equal(one) and not one.equal(two)
    assert dropout(hidden, 0.3, training=False) is hidden and dropout(hidden, 0.0, training=True) is hidden


def test_attention_drops_weights_and_not_values() -> None:
    torch.manual_seed(0)
    query, key, value = torch.zeros(2000, 1, 1, 4), torch.zeros(2000, 4, 1, 4), torch.eye(4).expand(2000, 1, 4, 4)
    weights = attend(query, key, value.transpose(1, 2), 1, 0.25)[:, 0, 0]  # values that show their weights
    assert weights.mean(0).tolist() == pytest.approx([0.25] * 4, rel=0.05)
    assert float((weights == 0).float().mean()) == pytest.approx(0.25, abs=0.03)


@pytest.mark.slow  # torch.compile calls a C++ compiler for a minute
def test_compiled_blocks_give_the_same(rows: Rows, batch: Batch) -> None:
    model = model_of(Gpt2(**SIZES), rows)
    theirs, their_gradients = with_gradients(model, stock_logits(model, batch))
    install(model, compiled=True)
    ours, gradients = with_gradients(model, short_logits(model, batch))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-6)
    for one, other in zip(gradients, their_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_compiled_is_said_and_runs_as_it_is(
    rows: Rows, batch: Batch, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(graph: Any, inputs: Any) -> Any:
        raise RuntimeError

    usual = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: usual(function, backend=no_compiler, **kwargs))
    model = model_of(Gpt2(**SIZES), rows)
    theirs = stock_logits(model, batch)
    install(model, compiled=True)
    for _ in range(2):
        torch.testing.assert_close(short_logits(model, batch), theirs, rtol=0, atol=3e-6)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and "is not compiled" in lines[0] and "no_compiler" in lines[0]
