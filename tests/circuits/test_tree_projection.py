"""Trees of states: charts against one pass for each part, scores against every tree and many random splits."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipeline.circuits._pairs import CorpusPairs, Renamed
from pipeline.circuits.hooks import Hooks
from pipeline.circuits.tree_projection import TreeProjection, charts, scores, tree
from pipeline.corpora.dyck import Dyck
from pipeline.corpora.group import Group
from pipeline.corpora.question_formation import QuestionFormation
from pipeline.corpora.store import build
from pipeline.models.gpt2 import Gpt2
from pipeline.utils.errors import ParameterError
from tests.circuits.small import random_model, random_pairs

Tree = tuple[tuple[int, int], ...]


def every_tree(first: int, last: int) -> Iterator[Tree]:
    """The parts of several words of each binary tree."""
    if first == last:
        yield ()
    for split in range(first, last):
        for left, right in itertools.product(every_tree(first, split), every_tree(split + 1, last)):
            yield ((first, last), *left, *right)


def sum_of(chart: np.ndarray, parts: Tree) -> float:
    """c of all parts of a tree but the whole, single words included."""
    size = len(chart)
    return float(sum(chart[part] for part in parts if part != (0, size - 1)) + np.trace(chart))


@pytest.mark.parametrize("kind", ["gpt2", "neox-parallel"])
def test_charts_are_those_of_one_masked_pass_for_each_part(kind: str) -> None:
    model, pairs = random_model(kind), random_pairs()
    pairs = pairs.take([0, 1, 2])
    ((rows, found, entropy),) = charts(Hooks(model), pairs)
    assert rows == [0, 1, 2] and found.shape == (3, 6, 6)
    with torch.no_grad():
        body = model.base_model
        for row in rows:
            tokens = torch.from_numpy(pairs.clean[row : row + 1]).long()
            whole = body(tokens).last_hidden_state[0, 1:].double()
            for first in range(6):
                for last in range(first, 6):
                    seen = torch.ones(7, 7, dtype=torch.bool).tril()
                    seen[:, 1 : first + 1] = False
                    seen[:, last + 2 :] = False
                    seen.fill_diagonal_(True)  # words outside see themselves, so that nothing is undefined
                    alone = body(tokens, attention_mask=seen[None, None]).last_hidden_state[0, 1:].double()
                    sums = [states[first : last + 1].sum(0) for states in (whole, alone)]
                    expected = float(sums[0] @ sums[1] / sums[0].norm() / sums[1].norm())
                    assert found[row, first, last] == pytest.approx(expected, abs=1e-5)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        patterns = model(torch.from_numpy(pairs.clean).long(), output_attentions=True).attentions
    by_layer = [-(p * p.clamp(min=1e-30).log()).sum(-1)[:, :, 1:].mean(1).sum(1) for p in patterns]
    np.testing.assert_allclose(entropy, torch.stack(by_layer).mean(0).numpy(), rtol=1e-4)


def test_a_tree_that_is_known_is_found() -> None:
    """Parts of the tree have c = 1, and all others 0.5."""
    for parts in list(every_tree(0, 6))[::7]:
        chart = np.full((7, 7), 0.5)
        for part in (*parts, *((word, word) for word in range(7))):
            chart[part] = 1.0
        assert set(tree(chart)) == set(parts)
        random = np.mean([sum_of(chart, other) for other in every_tree(0, 6)])
        found = scores(chart[None])
        assert found["t score of trees"][0] == pytest.approx(sum_of(chart, parts) - random)
        splits = sum(2 - np.mean([chart[a, k] + chart[k + 1, b] for k in range(a, b)]) for a, b in parts)
        assert found["t score"][0] == pytest.approx(splits)


def test_scores_are_those_of_many_random_splits_and_of_all_trees() -> None:
    rng = np.random.default_rng(0)
    chart = rng.random((2, 6, 6))
    found = scores(chart)
    for one, (split_score, tree_score) in zip(chart, zip(*found.values())):
        parts = tree(one)

        def sides(a: int, b: int, k: int, one: np.ndarray = one) -> float:
            return float(one[a, k] + one[k + 1, b])

        for a, b in parts:  # the greedy choice
            below = {part for part in parts if part[0] >= a and part[1] <= b and part != (a, b)}
            chosen = [k for k in range(a, b) if {(a, k), (k + 1, b)} <= below | {(a, a), (b, b)}]
            assert max(range(a, b), key=lambda k: sides(a, b, k)) in chosen
        drawn = [
            sum(max(sides(a, b, k) for k in range(a, b)) - sides(a, b, int(rng.integers(a, b))) for a, b in parts)
            for _ in range(4000)
        ]
        assert split_score == pytest.approx(np.mean(drawn), abs=5 * np.std(drawn) / 4000**0.5)
        random = np.mean([sum_of(one, other) for other in every_tree(0, 5)])
        assert tree_score == pytest.approx(sum_of(one, tuple(parts)) - random)


def test_a_model_that_sees_no_context_is_no_tree() -> None:
    """Where attention writes nothing, every part is as it is alone: c is 1, and no split better than another."""
    model = random_model("gpt2")
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_proj.weight.zero_()
            block.attn.c_proj.bias.zero_()
    for _, chart, _ in charts(Hooks(model), random_pairs()):
        first, last = np.triu_indices(6)
        np.testing.assert_allclose(chart[:, first, last], 1, atol=1e-9)
        for score in scores(chart).values():
            np.testing.assert_allclose(score, 0, atol=1e-6)


def test_sentences_of_a_corpus_are_taken_with_their_parts() -> None:
    stored = build(QuestionFormation.tiny())
    source = CorpusPairs(stored)
    pairs = TreeProjection(pairs=20).choose(source)
    assert len(pairs) == 20
    for row, length, spans in zip(pairs.clean, pairs.lengths, pairs.metadata["spans"]):
        words = [stored.tokens[token] for token in row[1:length]]
        assert stored.tokens[row[0]] == "<s>" and "." not in words
        assert [0, length - 2] in json.loads(spans) and len(json.loads(spans)) == len(words) - 1
    ids = np.random.default_rng(0).permutation(len(stored.tokens))
    np.testing.assert_array_equal(TreeProjection(pairs=20).choose(Renamed(source, ids)).clean, ids[pairs.clean])
    torch.manual_seed(0)
    model = Gpt2(n_layer=2, n_embd=32, n_head=4, n_positions=40, initializer_range=0.2).build(len(stored.tokens))
    table = TreeProjection(pairs=20).run(model, pairs)
    values = dict(zip(table["measure"].to_pylist(), table["value"].to_pylist()))
    known = [{tuple(span) for span in json.loads(spans)} for spans in pairs.metadata["spans"]]
    right = [{(i, length - 2) for i in range(length - 2)} for length in pairs.lengths]
    both = sum(len(one & other) for one, other in zip(known, right))
    assert values["right branching"] == pytest.approx(2 * both / sum(map(len, [*known, *right])))
    assert 0 < values["parseval"] < 1 and values["sparsity"] < 0


def test_strings_of_brackets_have_no_parts_to_compare_with() -> None:
    stored = build(Dyck.tiny())
    pairs = TreeProjection(pairs=5).choose(CorpusPairs(stored))
    assert set(pairs.metadata["spans"]) == {"[]"}
    with pytest.raises(ParameterError, match="has no sentences with parts"):
        TreeProjection().choose(CorpusPairs(build(Group.tiny())))
