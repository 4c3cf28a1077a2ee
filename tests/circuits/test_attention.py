"""Scores of heads against their definitions, and a trained induction circuit found by them and by its edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.circuits.attention import Attention
from pipeline.circuits.attribution import Attribution
from pipeline.circuits.base import Pairs
from pipeline.models.pythia import Pythia
from tests.circuits.small import random_model, random_pairs, tokens_of


def scores_of(table: Any) -> dict[str, np.ndarray]:
    rows = [row for row in table.to_pylist() if row["score"] != "pattern"]
    shape = [1 + max(row[name] for row in rows) for name in ("layer", "head")]
    found = {row["score"]: np.full(shape, np.nan) for row in rows}
    for row in rows:
        found[row["score"]][row["layer"], row["head"]] = np.nan if row["attention"] is None else row["attention"]
    return found


@pytest.mark.parametrize("kind", ["gpt2", "neox-parallel", "looped"])
def test_patterns_are_the_model_s_own(kind: str) -> None:
    model, pairs = random_model(kind), random_pairs()
    table = Attention().run(model, pairs)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = torch.stack(model(tokens_of(pairs.clean), output_attentions=True).attentions).mean(1)
    rows = [row for row in table.to_pylist() if row["score"] == "pattern"]
    layers, heads, size, _ = expected.shape
    assert len(rows) == layers * heads * size * (size + 1) // 2
    for row in rows:
        value = expected[row["layer"], row["head"], row["query"], row["key"]].item()
        assert row["attention"] == pytest.approx(value, abs=1e-5)
    sink = expected[:, :, 1:, 0].mean(-1).numpy()
    np.testing.assert_allclose(scores_of(table)["sink"], sink, atol=1e-5)


def test_scores_are_those_of_attention_that_is_known() -> None:
    """Heads that attend evenly: each later token gives 1 / (its place) to every earlier one."""
    model, pairs = random_model("gpt2", n_positions=40), random_pairs()
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.weight[:, :32] = 0
            block.attn.c_attn.bias[:32] = 0
    found = scores_of(Attention(length=8).run(model, pairs))
    for name in ("induction", "previous token", "duplicate token"):
        assert np.ptp(found[name]) < 1e-6 and 1 / 17 < found[name][0, 0] < 1 / 5
    np.testing.assert_allclose(found["induction"], found["duplicate token"], atol=1e-6)


def test_without_positions_for_repeats_there_is_no_score() -> None:
    table = Attention().run(random_model("gpt2", n_positions=4), random_pairs(length=4, position=1))
    found = scores_of(table)
    assert np.isnan(found["induction"]).all() and not np.isnan(found["sink"]).any()


@pytest.fixture(scope="module")
def induction() -> Any:
    """A model of two layers that has learned to go on with a repetition of random tokens, wherever it begins."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model: Any = Pythia(n_layer=2, n_embd=64, n_head=4, n_positions=32, rotary_pct=1, initializer_range=0.05).build(64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    place = np.arange(1, 32)
    for _ in range(250):
        rows, length = rng.integers(0, 64, (64, 32)), rng.integers(6, 16, 64)
        for row, size in zip(rows, length):
            row[size : 2 * size] = row[:size]
        tokens = tokens_of(rows)
        told = torch.from_numpy((place > length[:, None]) & (place < 2 * length[:, None]))
        logits = model(tokens).logits[:, :-1]
        loss = F.cross_entropy(logits[told], tokens[:, 1:][told])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = (logits[told].argmax(-1) == tokens[:, 1:][told]).float().mean().item()
    assert right > 0.9, right
    return model.eval()


def test_the_induction_circuit_is_found(induction: Any) -> None:
    """The known pair: a head that looks one token back writes what the keys of the induction head read."""
    rng = np.random.default_rng(1)
    clean = np.stack([rng.permutation(64)[:10] for _ in range(60)])
    clean = np.hstack([clean, clean[:, :8]]).astype(np.int32)  # what stood at 8 comes next
    # Another token in the place of that at 7, of which the last is a copy: nothing says any more where to look.
    corrupted = clean.copy()
    corrupted[:, 7] = (clean[:, 7] + rng.integers(1, 64, len(clean))) % 64
    other = ((clean[:, 8:9] + rng.integers(1, 64, (len(clean), 1))) % 64).astype(np.int32)
    pairs = Pairs(clean, corrupted, clean[:, 8:9], other)
    heads = scores_of(Attention(length=12).run(induction, pairs))
    back = int(heads["previous token"][0].argmax())
    inducing = int(heads["induction"][1].argmax())
    assert heads["previous token"][0, back] > 0.6 and heads["induction"][1, inducing] > 0.6
    table = Attribution(method="eap-ig").run(induction, pairs).to_pylist()
    edges = {(row["writer"], row["reader"]): abs(row["score"]) for row in table if row["reader"]}
    between = {edge: score for edge, score in edges.items() if edge[0][0] == "a" and edge[1][0] == "a"}
    assert max(between, key=between.__getitem__) == (f"a0.h{back}", f"a1.h{inducing}<k>")
    assert max((edge for edge in edges if edge[1] == "logits"), key=edges.__getitem__)[0] == f"a1.h{inducing}"
