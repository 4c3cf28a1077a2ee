"""Statistics of matrices whose values are known, gradients against plain torch, and CKA by its other formula."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.circuits._pairs import CorpusPairs
from pipeline.circuits.base import PAIRS, Pairs
from pipeline.circuits.cka import Cka, alignment, grams
from pipeline.circuits.matrix_statistics import MatrixStatistics, gram, statistics
from pipeline.circuits.tables import add_step
from pipeline.corpora.group import Group
from pipeline.corpora.store import build
from pipeline.utils.errors import ParameterError
from tests.circuits.small import random_model, random_pairs

Key = tuple[str, str, int, str]


def found_in(table: Any) -> dict[Key, float]:
    return {(row["kind"], row["component"], row["layer"], row["measure"]): row["value"]
            for row in table.to_pylist() if row["kind"] != "gram"}  # fmt: skip


def test_measures_of_matrices_that_are_known() -> None:
    alike = statistics(np.eye(8))
    assert alike["effective rank"] == pytest.approx(8) and alike["proportional rank"] == pytest.approx(1)
    assert alike["condition"] == pytest.approx(1) and alike["norm"] == pytest.approx(8**0.5)
    flat = statistics(np.full((4, 6), -3.0))
    assert flat["effective rank"] == pytest.approx(1) and flat["Gini"] == pytest.approx(0)
    assert flat["Hoyer"] == pytest.approx(0)
    lone = np.zeros((4, 5))
    lone[2, 3] = -7
    one = statistics(lone)
    assert one["Hoyer"] == pytest.approx(1) and one["Gini"] == pytest.approx(19 / 20) and np.isnan(one["condition"])
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    found = statistics(np.diag([4.0, 2.0, 1.0]) @ turned)
    share = np.array([4, 2, 1]) / 7
    assert found["condition"] == pytest.approx(4)
    assert found["effective rank"] == pytest.approx(np.prod(share**-share))
    # Gini as the mean difference of all pairs over twice the mean.
    entries = np.abs(np.random.default_rng(1).normal(size=(5, 4)))
    pairs = np.abs(entries.ravel()[:, None] - entries.ravel()).mean()
    assert statistics(-entries)["Gini"] == pytest.approx(pairs / 2 / entries.mean())
    nothing = statistics(np.zeros((2, 2)))
    assert nothing["norm"] == 0 and np.isnan(nothing["effective rank"])


@pytest.mark.parametrize("kind", ["gpt2", "neox-parallel"])
def test_gradients_and_activations_are_those_of_plain_torch(kind: str) -> None:
    model, pairs = random_model(kind), random_pairs()
    found = found_in(MatrixStatistics().run(model, pairs))
    gpt2 = hasattr(model.base_model, "h")
    block = model.base_model.h[1] if gpt2 else model.base_model.layers[1]
    weight = block.attn.c_proj.weight if gpt2 else block.attention.dense.weight
    caught: dict[str, Any] = {}
    handle = block.register_forward_hook(lambda module, inputs, output: caught.update(stream=output))
    logits = model(torch.from_numpy(pairs.clean).long()).logits[:, -1]
    handle.remove()
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(pairs.answers[:, 0]).long()).backward()
    for name, matrix in {"weight": weight, "gradient": weight.grad}.items():
        singular = np.linalg.svd(matrix.detach().numpy().astype(np.float64), compute_uv=False)
        share = singular / singular.sum()
        rank = np.exp(-(share * np.log(share)).sum())
        assert found[name, "attention out", 1, "effective rank"] == pytest.approx(rank, rel=1e-3)
        assert found[name, "attention out", 1, "norm"] == pytest.approx(float(matrix.detach().norm()), rel=1e-4)
    stream = caught["stream"][:, -1]
    assert found["activation", "stream", 1, "norm"] == pytest.approx(float(stream.detach().norm()), rel=1e-4)
    value = (
        block.attn.c_attn.weight[:, 64:]
        if gpt2
        else torch.cat([block.attention.query_key_value.weight[24 * head + 16 : 24 * head + 24] for head in range(4)]).T
    )
    ov = value @ (block.attn.c_proj.weight if gpt2 else block.attention.dense.weight.T)
    assert found["weight", "OV", 1, "norm"] == pytest.approx(float(ov.detach().norm()), rel=1e-4)
    assert (
        ("weight", "unembedding", -1, "norm") in found if not gpt2 else ("gradient", "embedding", -1, "norm") in found
    )


def test_cka_is_that_of_features() -> None:
    """|Y'X|^2 / (|X'X| |Y'Y|) of centred features, as Kornblith et al. write it; and 1 for what is only turned."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(10, 6)), rng.normal(size=(10, 4))
    x, y = one - one.mean(0), other - other.mean(0)
    expected = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))

    def half(rows: Any) -> dict[tuple[int, int], float]:
        products = gram(rows)
        return {(i, j): products[i, j] for i in range(10) for j in range(i + 1)}

    turned = 3 * one @ np.linalg.qr(rng.normal(size=(6, 6)))[0] + 5
    assert alignment(half(one), half(other)) == pytest.approx(expected)
    assert alignment(half(one), half(turned)) == pytest.approx(1)
    assert not gram(np.ones((4, 3))).any()
    with pytest.raises(ParameterError, match="against: the tables are of probe batches of other sizes"):
        alignment(half(one), {})


def test_steps_and_runs_are_compared_on_the_batch_that_is_kept_beside_the_tables() -> None:
    source = CorpusPairs(build(Group(group="Z11", template="a b = c")))
    analysis = MatrixStatistics(pairs=12)
    pairs = analysis.choose(source)
    tables = {step: analysis.run(random_model("gpt2", seed=step), pairs) for step in (0, 1, 2)}
    kept = json.loads(tables[1].schema.metadata[PAIRS])
    assert kept == {"probe": pairs.clean.tolist(), "answer": pairs.answers.tolist()} and len(pairs) == 12
    steps = {step: add_step(table, step) for step, table in tables.items()}
    rows = Cka().compare(steps, {1: steps[1]}).to_pylist()
    found = {(row["step"], row["to"], row["component"], row["layer"]): row["cka"] for row in rows}
    assert found[2, "last", "stream", 1] == pytest.approx(1) and found[1, "other run", "MLP", 0] == pytest.approx(1)
    first, last = (grams(steps[step])["attention", 1] for step in (0, 2))
    assert found[0, "last", "attention", 1] == pytest.approx(alignment(first, last)) and 0 < alignment(first, last) < 1
    assert {row["to_step"] for row in rows if row["to"] == "before"} == {0, 1}
    assert Cka().draw(Cka().compare(steps))[""].figure.axes
    assert isinstance(pairs, Pairs)
