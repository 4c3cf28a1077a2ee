"""Chains of permutations: sizes, answers worked out again one fact at a time, and no chain in two places."""

from __future__ import annotations

import itertools

import pytest

from pipeline.corpora.k_hop import KHop
from pipeline.corpora.store import StoredCorpus, build
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import facts

SMALL = {"num_entities": 7, "num_relations": 3, "trained_hops": 3, "most_hops": 40, "held_out_per_hop": 20}


def told(stored: StoredCorpus) -> dict[tuple[str, ...], str]:
    """(entity, relation) -> entity, of the facts that are trained."""
    return {fact.prompt: fact.answer[0] for fact in facts(stored, "train") if len(fact.prompt) == 2}


def test_every_relation_is_a_permutation_and_every_fact_is_told() -> None:
    edges = told(build(KHop(**SMALL)))
    assert len(edges) == 7 * 3
    for relation in range(3):
        tails = {edges[f"<e_{entity}>", f"<r_{relation}>"] for entity in range(7)}
        assert tails == {f"<e_{entity}>" for entity in range(7)}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_answer_is_where_the_facts_lead_one_after_the_other(seed: int) -> None:
    stored = build(KHop(**SMALL, seed=seed))
    edges = told(stored)
    for split in stored.sizes:
        for fact in facts(stored, split):
            entity, *relations = fact.prompt
            path = list(itertools.accumulate(relations, lambda at, relation: edges[at, relation], initial=entity))
            assert fact.answer == (path[-1],)
            assert fact.notes == {"bridge": path[1] if len(relations) > 1 else None}


def test_splits_hold_the_hops_that_they_are_named_by_and_no_chain_stands_in_two() -> None:
    stored = build(KHop(**SMALL, per_hop=30))
    chains = {split: [fact.prompt for fact in facts(stored, split)] for split in stored.sizes}
    for split, prompts in chains.items():
        assert len(set(prompts)) == len(prompts), split
    hops = {split: sorted({len(prompt) - 1 for prompt in prompts}) for split, prompts in chains.items()}
    assert hops["train"] == [1, 2, 3] and hops["one_hop"] == [1] and hops["train_chains"] == [2, 3]
    assert hops["id"] == [2, 3] and hops["ood"] == list(range(4, 41))
    assert all(hops[f"hops_{k}"] == [k] and len(chains[f"hops_{k}"]) == 20 for k in range(2, 41))
    assert [sum(len(prompt) == k + 1 for prompt in chains["train"]) for k in (1, 2, 3)] == [21, 30, 30]
    assert set(chains["id"]) == set(chains["hops_2"]) | set(chains["hops_3"])
    assert set(stored.held_out) == {"id", "ood", *(f"hops_{k}" for k in range(2, 41))}


def test_where_there_are_few_chains_all_of_them_are_trained_or_held_out() -> None:
    stored = build(KHop(**SMALL, per_hop=10**6))
    for hops in (2, 3):
        trained = {fact.prompt for fact in facts(stored, "train") if len(fact.prompt) == hops + 1}
        held_out = {fact.prompt for fact in facts(stored, f"hops_{hops}")}
        assert len(held_out) == 20 and not trained & held_out
        words = [[f"<e_{i}>" for i in range(7)], *[[f"<r_{i}>" for i in range(3)]] * hops]
        assert trained | held_out == set(itertools.product(*words))


def test_the_published_size_has_its_counts() -> None:
    splits = KHop().splits()
    train = list(splits["train"])
    assert [len(block) for block in train] == [2000, 15_000, 15_000, 15_000, 15_000]
    assert [block.prompts.shape[1] for block in train] == [2, 3, 4, 5, 6]
    assert {len(block) for k in range(2, 13) for block in splits[f"hops_{k}"]} == {750}


def test_probes_hold_as_many_of_each_number_of_hops() -> None:
    splits = KHop(**SMALL, probe_cap=75).splits()
    sizes = [len(block) for block in splits["ood"]]
    assert sum(sizes) == 75 and set(sizes) == {2, 3} and len(sizes) == 37
    assert [len(block) for block in splits["train_chains"]] == [37, 38]


def test_a_chain_is_corrupted_in_one_place_such_that_it_leads_elsewhere() -> None:
    corpus = KHop(**SMALL)
    stored = build(corpus)
    edges, words = told(stored), stored.tokens
    (examples,) = stored.blocks("hops_3")
    for position in range(4):
        prompts, answers, found = corpus.corrupt(examples, position, Draws(0, "test")) or pytest.fail("no rule")
        assert found.all() if position == 0 else found.any()
        changed = prompts != examples.prompts
        assert (changed.sum(axis=1)[found] == 1).all() and changed[found, position].all()
        for prompt, answer, right in zip(prompts[found], answers[found], examples.answers[found]):
            entity, *relations = (words[token] for token in prompt)
            for relation in relations:
                entity = edges[entity, relation]
            assert words[answer[0]] == entity and answer[0] != right[0]


@pytest.mark.parametrize("num_relations", [1, 2])
def test_hundreds_of_hops_and_few_relations_will_do(num_relations: int) -> None:
    corpus = KHop(**{**SMALL, "num_relations": num_relations, "held_out_per_hop": 3, "most_hops": 300})
    (block,) = corpus.splits()["hops_300"]
    for (entity, *relations), answer in zip(block.prompts.tolist(), block.answers.tolist()):
        for relation in relations:
            entity = corpus.tails[relation - 7, entity]
        assert [entity] == answer


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"most_hops": 5}, "most_hops"),
        ({"held_out_per_hop": 20_000}, "held_out_per_hop"),
        ({"trained_hops": 1}, "trained_hops"),
    ],
)
def test_impossible_parameters_are_named(parameters: dict[str, int], key: str) -> None:
    with pytest.raises(ParameterError) as error:
        KHop(**parameters).splits()
    assert error.value.key == key and "\n" not in str(error)
