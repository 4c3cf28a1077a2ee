"""Answers by the number of loops, against models that are built with so many and the same weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from pipeline.circuits._pairs import CorpusPairs
from pipeline.circuits.hooks import Hooks
from pipeline.circuits.loops import Loops, halts, looped_answers
from pipeline.corpora.k_hop import KHop
from pipeline.corpora.store import build
from pipeline.models.gpt2_looped import Gpt2Looped
from pipeline.utils.errors import MismatchError, ParameterError
from tests.circuits.small import random_model, random_pairs


def with_loops(model: torch.nn.Module, loops: int) -> torch.nn.Module:
    """A model that is made with so many loops, with the weights of another."""
    config = copy.deepcopy(model.config)
    config.n_layer, config.n_loops = config.n_layer // config.n_loops * loops, loops
    made = type(model)(config)
    made.load_state_dict(model.state_dict())
    return made.eval()


def test_every_number_of_loops_is_the_model_that_has_so_many() -> None:
    model, pairs = random_model("looped"), random_pairs(n=40)
    right, margin, kl = looped_answers(Hooks(model), pairs, 5)
    assert model.transformer.h.n_loops == 2 and len(right) == 6
    before = None
    for loops in range(1, 6):
        with torch.no_grad():
            logits = with_loops(model, loops)(torch.from_numpy(pairs.clean).long()).logits[:, -1].double().numpy()
        own = logits[np.arange(40), pairs.answers[:, 0]]
        assert right[loops].tolist() == (logits.argmax(1) == pairs.answers[:, 0]).tolist()
        logits_of_others = logits.copy()
        logits_of_others[np.arange(40), pairs.answers[:, 0]] = -np.inf
        assert margin[loops] == pytest.approx(own - logits_of_others.max(1), abs=1e-4)
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        if before is not None:
            assert kl[loops] == pytest.approx((before * np.log(before / p)).sum(1), abs=1e-4)
        before = p
    assert np.isnan(kl[0]).all()


def test_tokens_can_be_added_between_loops_as_in_a_model_that_is_made_so() -> None:
    model, pairs = random_model("looped"), random_pairs(n=40)
    config = copy.deepcopy(model.config)
    config.discrete = 0.5
    made = type(model)(config)
    made.load_state_dict(model.state_dict())
    plain, added = (looped_answers(Hooks(model), pairs, 3, discrete) for discrete in (0.0, 0.5))
    for found, expected in zip(added, looped_answers(Hooks(made.eval()), pairs, 3)):
        assert found == pytest.approx(expected, abs=1e-5, nan_ok=True)
    assert added[1][:2] == pytest.approx(plain[1][:2]) and not np.allclose(added[1][2:], plain[1][2:], atol=0.01)


def test_prompts_of_other_lengths_are_read_where_they_end() -> None:
    model, pairs = random_model("looped"), random_pairs(n=10)
    shorter = pairs.take(slice(None))
    object.__setattr__(shorter, "lengths", np.full(10, 5))
    cut = random_pairs(n=10)
    cut = type(cut)(cut.clean[:, :5], cut.corrupted[:, :5], cut.answers, cut.corrupted_answers)
    for found, expected in zip(looped_answers(Hooks(model), shorter), looped_answers(Hooks(model), cut)):
        assert found == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_a_prompt_halts_where_its_answer_stays_or_else_at_the_end() -> None:
    kl = np.array([[np.nan] * 3, [0.5, 0.001, 0.3], [0.005, 0.5, 0.2], [0.001, 0.0, 0.1]])
    assert halts(kl, 0.01).tolist() == [2, 1, 3]


def test_a_table_has_every_split_and_loop_and_shares_that_add_up() -> None:
    stored = build(KHop(**{**KHop.tiny_values, "most_hops": 9, "held_out_per_hop": 30}))
    model = Gpt2Looped(n_layer=1, n_loops=3, n_embd=32, n_head=4, n_positions=12).build(len(stored.tokens)).eval()
    analysis = Loops(split="hops_9,hops_2", pairs=9)
    analysis.check_split(stored.sizes)
    source = CorpusPairs(stored)
    with pytest.raises(ParameterError, match="no prompt of hops_9 has a neighbour"):
        source.pairs("hops_9", 9, 0)  # which does not matter: chains have a rule by which they are corrupted
    pairs = analysis.choose(source)
    assert pairs.lengths.tolist() == [10] * 9 + [3] * 9 and len(np.unique(pairs.clean, axis=0)) == 18
    table = analysis.run(model, pairs).to_pandas()
    assert table["loops"].tolist() == [*range(7), *range(7)]
    assert table["split"].tolist() == ["hops_9"] * 7 + ["hops_2"] * 7
    assert table.groupby("split")["halted"].sum().tolist() == pytest.approx([1, 1])
    right, _, kl = looped_answers(Hooks(model), pairs.take(slice(0, 9)))
    at_halt = [right[loops, row] for row, loops in enumerate(halts(kl, 0.01))]
    assert table["accuracy halted"].iloc[0] == pytest.approx(np.mean(at_halt))
    assert table["accuracy"].iloc[:7].tolist() == pytest.approx(right.mean(1))


def test_a_model_without_loops_has_one() -> None:
    right, _, _ = looped_answers(Hooks(random_model("gpt2")), random_pairs(), 4)
    assert len(right) == 2


def test_a_split_that_is_not_there_is_named_and_a_failure_leaves_the_model_as_it_was() -> None:
    with pytest.raises(ParameterError, match="no split 'hops_9'; allowed: hops_2, hops_4"):
        Loops(split="hops_2,hops_9").check_split(["hops_2", "hops_4"])
    model, pairs = random_model("looped"), random_pairs()
    pairs.clean[0, 0] = 999  # no token of the model
    with pytest.raises((IndexError, MismatchError)):
        looped_answers(Hooks(model), pairs, 5)
    assert model.transformer.h.n_loops == 2
