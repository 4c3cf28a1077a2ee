"""What holds exactly of edges: cut, estimated and measured, on every kind of model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.circuits._batch import answer_logits, measure, on_device
from pipeline.circuits._edge_patching import cut_logits, cut_metric, graph_of, writers
from pipeline.circuits._graph import Graph
from pipeline.circuits.attribution import Attribution
from pipeline.circuits.base import Pairs
from pipeline.circuits.hooks import Hooks
from pipeline.circuits.patching import Patching
from tests.circuits.small import KINDS, random_model, random_pairs

kinds = pytest.mark.parametrize("kind", KINDS)


def opened(kind: str, pairs: Pairs | None = None, **sizes: Any) -> tuple[Any, Any, Graph, torch.Tensor]:
    hooks = Hooks(random_model(kind, **sizes))
    batch, graph = on_device(hooks, pairs or random_pairs()), graph_of(hooks)
    return hooks, batch, graph, torch.from_numpy(graph.edges)


@kinds
def test_all_edges_are_the_model_and_none_the_corrupted_run(kind: str) -> None:
    hooks, batch, _, edges = opened(kind)
    corrupted = writers(hooks, batch.corrupted)
    whole, empty = cut_logits(hooks, batch, corrupted, torch.stack([edges, edges & False]))
    with torch.no_grad():
        clean, other = (answer_logits(hooks, side, batch) for side in (batch.clean, batch.corrupted))
    assert cut_logits(hooks, batch, corrupted, edges[None])[0].equal(clean)
    torch.testing.assert_close(whole, clean, atol=1e-5, rtol=0)  # beside another circuit, in a larger batch
    torch.testing.assert_close(empty, other, atol=1e-5, rtol=0)
    assert (clean - other).abs().max() > 0.1


@kinds
def test_many_circuits_at_once_are_each_on_its_own(kind: str) -> None:
    hooks, batch, _, edges = opened(kind)
    kept = (torch.rand(5, *edges.shape, generator=torch.Generator().manual_seed(0)) < 0.7) & edges
    together = cut_metric(hooks, batch, kept, "logit_diff")
    rows = torch.stack(
        [
            torch.cat([cut_metric(hooks, batch.rows(i, 1), circuit[None], "logit_diff")[0] for i in range(len(batch))])
            for circuit in kept
        ]
    )
    torch.testing.assert_close(together, rows, atol=2e-5, rtol=1e-5)
    small = cut_metric(hooks, batch, kept, "logit_diff", most=1)  # the smallest parts there can be
    torch.testing.assert_close(together, small, atol=2e-5, rtol=1e-5)


@kinds
def test_cutting_a_node_is_patching_its_output(kind: str) -> None:
    """The oracle against torch hooks alone: a head's share, an MLP's output, one pair at a time."""
    model, pairs = random_model(kind), random_pairs(n=3)
    hooks = Hooks(model)
    table = Patching(level="node").run(model, pairs)
    found = dict(zip(table["writer"].to_pylist(), table["score"].to_pylist()))
    batch = on_device(hooks, pairs)
    for node in ("a0.h1", "a1.h3", "m0", f"m{hooks.n_layer - 1}", "input"):
        layer = int(node[1]) if node != "input" else 0
        head = int(node[4]) if node[0] == "a" else None
        name = {"a": "attn.hook_result", "m": "hook_mlp_out", "i": "hook_resid_pre"}[node[0]]
        point, changes = f"blocks.{layer}.{name}", []
        for i in range(len(pairs)):
            one = batch.rows(i, 1)
            _, other = hooks.read(one.corrupted, [point])

            def patch(value: torch.Tensor, other: torch.Tensor = other[point], head: int | None = head) -> torch.Tensor:
                return (
                    other
                    if head is None
                    else torch.cat([value[:, :, :head], other[:, :, head : head + 1], value[:, :, head + 1 :]], 2)
                )

            with torch.no_grad():
                before = measure("logit_diff", answer_logits(hooks, one.clean, one), one)
                with hooks.at({point: patch}):
                    changes.append((measure("logit_diff", answer_logits(hooks, one.clean, one), one) - before).item())
        assert found[node] == pytest.approx(np.mean(changes), abs=2e-5)


@kinds
def test_fast_scores_are_derivatives_of_cut_edges(kind: str) -> None:
    """Along each edge alone a small part of the difference, in float64: its effect is the score times that part."""
    pairs = random_pairs(n=3)
    model = random_model(kind, n_embd=16).double()
    hooks = Hooks(model)
    batch, graph = on_device(hooks, pairs), graph_of(hooks)
    scores, edges, part = Attribution(method="eap").scores(hooks, pairs), torch.from_numpy(graph.edges), 1e-5
    places = np.argwhere(graph.edges)
    kept = edges.repeat(len(places), 1, 1)
    kept[torch.arange(len(places)), places[:, 0], places[:, 1]] = False
    clean, corrupted = writers(hooks, batch.clean), writers(hooks, batch.corrupted)
    ends = []
    for sign in (1, -1):
        logits = cut_logits(hooks, batch, clean + sign * part * (corrupted - clean), kept)
        ends.append(torch.stack([measure("logit_diff", one, batch).mean() for one in logits]))
    slopes = ((ends[0] - ends[1]) / (2 * part)).numpy()
    np.testing.assert_allclose(scores[graph.edges], slopes, rtol=1e-3, atol=1e-6)
    assert np.abs(slopes).max() > 1e-3


@kinds
def test_integrated_gradients_are_complete(kind: str) -> None:
    """What leaves the input sums to the whole change of the metric, at the middle of both end points."""
    hooks, batch, _, _ = opened(kind)
    pairs = random_pairs()
    scores = [Attribution(ig_steps=60, endpoint=end).scores(hooks, pairs) for end in ("clean", "corrupted")]
    with torch.no_grad():
        ends = [
            measure("logit_diff", answer_logits(hooks, side, batch), batch).mean()
            for side in (batch.corrupted, batch.clean)
        ]
    change = (ends[0] - ends[1]).item()
    assert (scores[0] + scores[1])[0].sum() / 2 == pytest.approx(change, abs=5e-3 * max(1, abs(change)))
    assert abs(change) > 0.01


@kinds
def test_estimates_agree_with_what_is_measured(kind: str) -> None:
    model, pairs = random_model(kind), random_pairs(n=8)
    exact = Patching(level="edge").run(model, pairs)
    for method, least in {"eap": 0.5, "clean-corrupted": 0.6, "eap-ig": 0.6}.items():
        table = Attribution(method=method, ig_steps=10).run(model, pairs)
        assert table["writer"].equals(exact["writer"]) and table["reader"].equals(exact["reader"])
        correlation = np.corrcoef(table["score"], exact["score"])[0, 1]
        assert correlation > least, (method, correlation)


def test_end_points_and_methods_are_what_they_say() -> None:
    assert Attribution(ig_steps=4).weights == [0.25, 0.5, 0.75, 1.0]
    assert Attribution(ig_steps=4, endpoint="corrupted").weights == [0.0, 0.25, 0.5, 0.75]
    hooks, _, _, _ = opened("gpt2")
    pairs = random_pairs()

    def scores(**parameters: Any) -> Any:
        return Attribution(**parameters).scores(hooks, pairs)

    np.testing.assert_allclose(scores(ig_steps=1), scores(method="eap"), atol=1e-6)
    swapped = scores(method="clean-corrupted") * 2 - scores(method="eap")
    np.testing.assert_allclose(scores(ig_steps=1, endpoint="corrupted"), swapped, atol=1e-5)


@pytest.mark.parametrize("metric", ["logit_diff", "prob_diff", "kl"])
def test_prompts_of_different_lengths_are_each_on_its_own(metric: Any) -> None:
    """Padding on the right is never seen: a batch of two lengths is the two batches."""
    long, short = random_pairs(n=4, length=7, seed=1), random_pairs(n=4, length=5, seed=2)
    pads = np.zeros((4, 2), np.int32)
    mixed = Pairs(
        np.concatenate([long.clean, np.hstack([short.clean, pads])]),
        np.concatenate([long.corrupted, np.hstack([short.corrupted, pads + 5])]),
        np.concatenate([long.answers, short.answers]),
        np.concatenate([long.corrupted_answers, short.corrupted_answers]),
        lengths=np.array([7] * 4 + [5] * 4),
    )
    model = random_model("neox-parallel")
    for analysis in (Attribution(metric=metric), Patching(metric=metric)):
        parts = [np.array(analysis.run(model, pairs)["score"]) for pairs in (long, short)]
        np.testing.assert_allclose(analysis.run(model, mixed)["score"], np.mean(parts, axis=0), atol=2e-5)


def test_batches_do_not_change_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    hooks, _, _, _ = opened("gpt2")
    pairs = random_pairs(n=5)
    whole = Attribution().scores(hooks, pairs)
    monkeypatch.setattr("pipeline.circuits._batch.FLOATS", 1)
    np.testing.assert_allclose(Attribution().scores(hooks, pairs), whole, atol=1e-6)
