"""Circuits are chosen and judged as their definitions say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from pipeline.circuits._batch import answer_logits, bootstrap, measure, on_device
from pipeline.circuits._edge_patching import graph_of
from pipeline.circuits._pairs import CorpusPairs
from pipeline.circuits.base import Pairs
from pipeline.circuits.faithfulness import Faithfulness, Judge
from pipeline.circuits.hooks import Hooks
from pipeline.circuits.tables import add_step
from pipeline.corpora.behaviours import Behaviours
from pipeline.corpora.store import build
from pipeline.models.pythia import Pythia
from pipeline.plots.style import png
from pipeline.utils.errors import ParameterError
from tests.circuits.small import random_model, random_pairs, tokens_of

SHARES = (0.02, 0.1, 0.3, 1.0)


def answered(kind: str = "gpt2", n: int = 12) -> tuple[Any, Pairs]:
    """A model, and pairs whose answers are what it says of either prompt."""
    model, pairs = random_model(kind), random_pairs(n=12 * n)
    with torch.no_grad():
        tops = [model(tokens_of(part)).logits[:, -1].argmax(-1).numpy() for part in (pairs.clean, pairs.corrupted)]
    differ = np.flatnonzero(tops[0] != tops[1])[:n]
    answers = [top[:, None].astype(np.int32) for top in tops]
    return model, Pairs(pairs.clean, pairs.corrupted, *answers).take(differ)


@pytest.mark.parametrize("kind", ["gpt2", "neox-parallel", "looped"])
@pytest.mark.parametrize("selection", ["greedy", "top"])
def test_the_curve_ends_at_the_whole_model_and_the_corrupted_run(kind: str, selection: Any) -> None:
    model, pairs = answered(kind)
    table = Faithfulness(selection=selection, shares=SHARES).run(model, pairs)
    rows = {(row["curve"], row["share"]): row for row in table.to_pylist()}
    assert len(rows) == 3 * len(SHARES)
    graph, batch = graph_of(Hooks(model)), on_device(Hooks(model), pairs)
    with torch.no_grad():
        whole, broken = (
            measure("logit_diff", answer_logits(Hooks(model), side, batch), batch).mean().item()
            for side in (batch.clean, batch.corrupted)
        )
    for row in rows.values():
        assert row["model_metric"] == pytest.approx(whole, rel=1e-5)
        assert row["corrupted_metric"] == pytest.approx(broken, rel=1e-5)
        assert row["ratio"] == pytest.approx(row["metric"] / whole, rel=1e-5)
        assert row["normalized"] == pytest.approx((row["metric"] - broken) / (whole - broken), abs=1e-5)
        assert row["edges"] <= row["asked"] or row["curve"] == "complement"
    assert rows["circuit", 1.0]["edges"] == rows["circuit", 1.0]["asked"] == graph.edges.sum()
    assert rows["circuit", 1.0]["normalized"] == pytest.approx(1, abs=1e-5)
    assert rows["complement", 1.0]["edges"] == 0
    assert rows["complement", 1.0]["normalized"] == pytest.approx(0, abs=1e-5)
    for share in SHARES:
        assert rows["circuit", share]["edges"] + rows["complement", share]["edges"] == graph.edges.sum()
    normalized = [rows["circuit", share]["normalized"] for share in SHARES]
    a, b, c, d = normalized
    assert table["cpr"][0].as_py() == pytest.approx(0.08 * (a + b) / 2 + 0.2 * (b + c) / 2 + 0.7 * (c + d) / 2)
    away = [abs(1 - value) for value in normalized]
    areas = [width * (p + q) / 2 for width, p, q in zip((0.08, 0.2, 0.7), away, away[1:])]
    assert table["cmd"][0].as_py() == pytest.approx(sum(areas))
    assert rows["circuit", 0.3]["normalized"] > rows["random", 0.3]["normalized"] + 0.3


@pytest.mark.parametrize("convention", ["normalized", "ratio"])
def test_the_smallest_circuit_reaches_the_target_and_the_one_before_does_not(convention: Any) -> None:
    model, pairs = answered()
    analysis = Faithfulness(shares=(1.0,), convention=convention, selection="top")
    smallest = analysis.run(model, pairs)["smallest"][0].as_py()
    hooks = Hooks(model)
    graph = graph_of(hooks)
    with torch.no_grad():
        judge, order = Judge(analysis, hooks, pairs, graph), graph.top(analysis.scores(hooks, pairs))
        circuits = [graph.circuit(order, n) for n in range(len(order) + 1)]
        found = [judge.faithfulness(convention, values) for values in judge.metrics(circuits)]
    crossings = {int(circuits[n].sum()) for n in range(1, len(order) + 1) if found[n] >= analysis.target > found[n - 1]}
    assert smallest in crossings and 0 < smallest < graph.edges.sum()


def test_an_interval_holds_the_value_and_narrows_with_more_pairs() -> None:
    widths = []
    for n in (6, 60):
        model, pairs = answered(n=n)
        row = Faithfulness(shares=(0.2,)).run(model, pairs).to_pylist()[0]
        for name in ("ratio", "normalized"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        widths.append(row["normalized_high"] - row["normalized_low"])
    assert widths[1] < widths[0]
    values = torch.arange(100.0)
    low, high = bootstrap(lambda drawn: values[drawn].mean(-1), 100, seed=0)
    # The standard error of a mean of 100 such numbers is 2.9; 95 % lie within 1.96 of it.
    assert low == pytest.approx(49.5 - 5.7, abs=0.8) and high == pytest.approx(49.5 + 5.7, abs=0.8)


def test_where_there_is_no_behaviour_there_is_no_faithfulness() -> None:
    model, pairs = random_model("gpt2"), random_pairs(n=30)
    rng = np.random.default_rng(0)  # answers that the model knows nothing of
    swap = rng.random(30) < 0.5
    sides = (pairs.answers, pairs.corrupted_answers)
    answers = [np.where(swap[:, None], one, other) for one, other in (sides, sides[::-1])]
    table = Faithfulness(shares=SHARES).run(model, Pairs(pairs.clean, pairs.corrupted, *answers))
    assert table["absent"].to_pylist() == [True] * len(table)
    for name in ("ratio", "normalized", "ratio_low", "cpr", "cmd", "smallest"):
        assert table[name].null_count == len(table)
    assert table["metric"].null_count == 0
    drawing = Faithfulness().draw(add_step(table, 0))[""]
    assert "behaviour is absent" in drawing.caption
    assert [text.get_text() for text in drawing.figure.axes[0].texts] == ["the behaviour is absent"]
    assert drawing.figure.axes[0].get_xlim()[0] > 0 and png(drawing.figure)


@pytest.mark.parametrize("shares", [(0.5, 0.1), (0.0, 1.0), (0.5, 1.5)])
def test_impossible_shares_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ParameterError, match=r"shares: .* are not ascending numbers > 0 and <= 1"):
        Faithfulness(shares=shares)


def test_circuits_of_several_splits_are_those_of_each() -> None:
    """Prompts of other lengths beside them change nothing, and each split has figures of its own."""
    source = CorpusPairs(build(Behaviours.tiny()))
    torch.manual_seed(0)
    model = Pythia(n_layer=2, n_embd=32, n_head=4, n_positions=16).build(len(source.stored.tokens))
    splits, more = ("ioi", "agreement"), {"pairs": 12, "shares": (0.2, 1.0), "draws": 5}
    both = Faithfulness(split=",".join(splits), **more)
    table = add_step(both.run(model, both.choose(source)), 0)
    for split in splits:
        one = Faithfulness(split=split, **more)
        alone = add_step(one.run(model, one.choose(source)), 0)
        part = table.filter(pc.field("split") == split)
        assert len(part) == len(alone) == 6
        for name in alone.column_names:
            if alone[name].type == "double":
                np.testing.assert_allclose(part[name].to_numpy(), alone[name].to_numpy(), rtol=1e-4, atol=1e-6)
            else:
                assert part[name].to_pylist() == alone[name].to_pylist()
    assert set(table["metric"].to_pylist()) > {table["metric"][0].as_py()}
    drawn = both.draw(table)
    assert set(drawn) == set(splits) and drawn["agreement"].caption.startswith("agreement: Step 0.")
    with pytest.raises(ParameterError, match="split: no split 'no'; allowed: train, ioi"):
        Faithfulness(split="ioi,no").check_split(["train", "ioi"])
