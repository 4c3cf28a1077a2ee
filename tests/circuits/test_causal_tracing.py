"""Causal tracing in one pass against patching one pair, layer and position at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.circuits._pairs import CorpusPairs
from pipeline.circuits.base import Pairs
from pipeline.circuits.causal_tracing import CausalTracing, span, trace
from pipeline.circuits.hooks import Hooks
from pipeline.corpora.comparison import Comparison
from pipeline.corpora.store import build
from tests.circuits.small import KINDS, random_model, random_pairs, tokens_of


def naive(model: Any, hooks: Hooks, clean: Any, corrupted: Any, answer: int, start: int, stop: int) -> list[int]:
    """The answer's rank, found by sorting, before and after each patch of one pair."""
    names = [f"blocks.{i}.hook_resid_pre" for i in range(hooks.n_layer)]
    names.append(f"blocks.{hooks.n_layer - 1}.hook_resid_post")
    _, found = hooks.read(corrupted, names)
    ranks = []
    for name in [None, *names]:

        def patch(value: torch.Tensor, name: str | None = name) -> torch.Tensor:
            assert name is not None
            return torch.cat([value[:, :start], found[name][:, start:stop], value[:, stop:]], 1)

        with torch.no_grad(), hooks.at({name: patch} if name else {}):
            logits = model(clean).logits[0, -1].tolist()
        ranks.append(sorted(range(len(logits)), key=lambda i: -logits[i]).index(answer))
    return ranks


@pytest.mark.parametrize("position", [0, 2, 6])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_layer", [1, 3])
def test_all_at_once_is_one_at_a_time(kind: str, n_layer: int, position: int) -> None:
    model, pairs = random_model(kind, n_layer), random_pairs(n=5, position=position)
    hooks = Hooks(model)
    with torch.no_grad():
        ranks, chances, before = trace(hooks, pairs, {position: position + 1})
    assert ranks.shape == chances.shape == (hooks.n_layer + 1, 5)
    for i in range(5):
        one = tokens_of(pairs.clean[i : i + 1]), tokens_of(pairs.corrupted[i : i + 1])
        expected = naive(model, hooks, *one, int(pairs.answers[i, 0]), position, position + 1)
        assert [before[i], *ranks[:, i]] == expected


@pytest.mark.parametrize("floats", [1, 20_000, 1 << 26])
@pytest.mark.parametrize("kind", KINDS)
def test_prompts_corrupted_in_several_places_are_each_on_their_own(
    kind: str, floats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share a clean run; some come twice, in any order, and one with another answer."""
    monkeypatch.setattr("pipeline.circuits._batch.FLOATS", floats)
    model, rng = random_model(kind), np.random.default_rng(0)
    sides = [random_pairs(n=5, position=position) for position in (0, 4, 6)]
    clean, corrupted, answers, wrong = (
        np.concatenate([getattr(side, part) for side in sides])
        for part in ("clean", "corrupted", "answers", "corrupted_answers")
    )
    order = rng.permutation(np.append(np.arange(15), [2, 7]))
    pairs = Pairs(clean, corrupted, answers, wrong).take(order)
    pairs.answers[order.tolist().index(9)] = 23
    hooks = Hooks(model)
    with torch.no_grad():
        ranks, chances, before = trace(hooks, pairs, {0: 1, 4: 5, 6: 7})
    for i, start in enumerate(pairs.where):
        one = tokens_of(pairs.clean[i : i + 1]), tokens_of(pairs.corrupted[i : i + 1])
        assert [before[i], *ranks[:, i]] == naive(model, hooks, *one, int(pairs.answers[i, 0]), start, start + 1)
        with torch.no_grad():
            corrupted_chance = model(one[1]).logits[0, -1].softmax(-1)[pairs.answers[i, 0]]
        assert chances[0, i] == pytest.approx(corrupted_chance.item(), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_filler_is_patched_with_what_it_follows(kind: str) -> None:
    pairs = random_pairs(n=4, position=2)
    pairs.clean[:, 3] = pairs.corrupted[:, 3] = 5
    pairs.clean[:, 6] = pairs.corrupted[:, 6] = 7
    assert [span(pairs, position) for position in (2, 3, 5)] == [4, 4, 6]  # the last token goes with nothing
    model = random_model(kind)
    hooks = Hooks(model)
    with torch.no_grad():
        ranks, _, before = trace(hooks, pairs, {2: 4})
    for i in range(4):
        one = tokens_of(pairs.clean[i : i + 1]), tokens_of(pairs.corrupted[i : i + 1])
        assert [before[i], *ranks[:, i]] == naive(model, hooks, *one, int(pairs.answers[i, 0]), 2, 4)


def test_one_prompt_does_not_show_what_a_filler_is() -> None:
    pairs = random_pairs(n=4, position=2)
    pairs.clean[:] = pairs.clean[0]
    pairs.corrupted[:, [0, 1, 3, 4, 5, 6]] = pairs.clean[:, [0, 1, 3, 4, 5, 6]]
    assert span(pairs, 2) == 3


def test_strength_is_the_share_of_right_answers_that_are_lost() -> None:
    model, pairs = random_model("gpt2"), random_pairs(n=40, position=1)
    with torch.no_grad():
        top = model(tokens_of(pairs.clean)).logits[:, -1].argmax(-1).numpy()
    answers = np.where(np.arange(40) < 30, top, (top + 1) % 24).astype(np.int32)[:, None]
    some = Pairs(pairs.clean, pairs.corrupted, answers, (answers + 1) % 24)
    table = CausalTracing().run(model, some)
    with torch.no_grad():
        ranks, _, before = trace(Hooks(model), some, {1: 2})
    assert (before == 0).sum() == 30 and table["right"].to_pylist() == [0.75] * 3
    assert table["strength"].to_pylist() == [(row[:30] > 0).mean() for row in ranks]
    assert table["strength"][2].as_py() == 0 < table["strength"][0].as_py()
    wrong = Pairs(pairs.clean, pairs.corrupted, (top[:, None] + 1) % 24, top[:, None])
    assert CausalTracing().run(model, wrong)["strength"].null_count == 3


def test_comparison_is_traced_as_published() -> None:
    """An entity goes with the mask after it, and the attribute with <q>; the second entity is last."""
    stored = build(Comparison(num_entities=20, num_attributes=3, num_values=5, probe_cap=200))
    pairs = CausalTracing(split="id", pairs=20).choose(CorpusPairs(stored))
    assert list(pairs.places) == ["attr", "<q>", "e1", "<mask>", "e2"]
    assert sorted(set(pairs.where.tolist())) == [0, 2, 4]
    assert [span(pairs, position) for position in (0, 2, 4)] == [2, 4, 5]
    assert (np.bincount(pairs.where)[[0, 2, 4]] <= 20).all()


def test_pairs_that_differ_in_two_places_are_refused() -> None:
    pairs = random_pairs(position=1)
    pairs.corrupted[:, 4] = (pairs.clean[:, 4] + 1) % 24
    with pytest.raises(ValueError, match="differ in one place; some differ after position 1 too"):
        CausalTracing().run(random_model("gpt2"), pairs)
