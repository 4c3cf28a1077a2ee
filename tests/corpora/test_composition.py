"""Two-hop composition: the published sizes, and the meaning of every example worked out again from atomic facts."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest

from pipeline.corpora.composition import Composition
from pipeline.corpora.store import build
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import facts

SIZES = [(500, 50), (1000, 100), (2000, 200), (5000, 200), (10_000, 200)]  # |E|, |R|
RATIOS = {18.0: 684_000, 12.6: 478_800, 9.0: 342_000, 7.2: 273_600, 5.4: 205_200, 3.6: 136_800}  # at 2000, 200


def sizes(corpus: Composition) -> dict[str, dict[str, int]]:
    """Split -> type -> examples, without building an Arrow file."""
    found: dict[str, dict[str, int]] = {}
    for split, blocks in corpus.splits().items():
        found[split] = defaultdict(int)
        for block in blocks:
            found[split][block.type] += len(block)
    return found


@pytest.mark.parametrize(("num_entities", "num_relations"), SIZES)
def test_sizes_are_those_of_the_paper(num_entities: int, num_relations: int) -> None:
    corpus = Composition(num_entities=num_entities, num_relations=num_relations, ratio=3.6, probe_cap=10**9)
    found = sizes(corpus)
    atomic = 20 * num_entities
    num_id, num_ood = round(0.95 * atomic), round(0.05 * atomic)
    assert found["train"] == {"id_atomic": num_id, "ood_atomic": num_ood, "train_inferred": round(3.6 * num_id)}
    assert found["id_atomic"] == {"id_atomic": num_id} and found["ood_atomic"] == {"ood_atomic": num_ood}

    # Each two edges that meet are a composition, so the pools follow from how many edges of a kind leave an entity.
    graph = corpus.graph
    head = np.repeat(np.arange(num_entities), 20)
    ood_edges, id_edges = (np.bincount(head[kind], minlength=num_entities) for kind in (graph.ood, ~graph.ood))
    both_id, both_ood = int(id_edges[graph.tail[~graph.ood]].sum()), int(ood_edges[graph.tail[graph.ood]].sum())
    iid = found["id"]["test_inferred_iid"]
    assert found["ood"] == {"test_inferred_ood": both_ood}
    assert both_id == pytest.approx(0.95**2 * 20 * atomic, rel=0.02)
    assert both_ood == pytest.approx(0.05**2 * 20 * atomic, rel=0.1)
    assert abs(iid - 0.005 * both_id) < 5 * math.sqrt(0.005 * both_id)

    with pytest.raises(ParameterError, match=f"1 to {both_id - iid:,}, a ratio <= "):
        Composition(num_entities=num_entities, num_relations=num_relations, ratio=20.0).splits()


def test_every_ratio_has_the_published_size_and_the_same_graph_and_probes() -> None:
    reference = None
    for ratio, inferred in RATIOS.items():
        splits = Composition(ratio=ratio).splits()
        train = list(splits.pop("train"))
        assert [len(block) for block in train] == [38_000, 2_000, inferred]
        splits.pop("train_inferred")
        probes = {split: [block.prompts.tolist() for block in blocks] for split, blocks in splits.items()}
        facts_told = [block.answers.tolist() for block in train[:2]]
        reference = reference or (probes, facts_told)
        assert (probes, facts_told) == reference
        assert {split: len(blocks[0]) for split, blocks in probes.items()} == {
            "id": 3000, "ood": 2029, "id_atomic": 3000, "ood_atomic": 2000,
        }  # fmt: skip


@pytest.mark.parametrize("multiplicity", [None, 4])
def test_every_answer_follows_from_two_atomic_facts(multiplicity: int | None) -> None:
    corpus = Composition(
        num_entities=60, num_relations=12, out_degree=6, ratio=2.0, ood_fraction=0.2, iid_fraction=0.1,
        probe_cap=10**6, token_multiplicity=multiplicity, seed=7,
    )  # fmt: skip
    stored = build(corpus)
    width = 2 if multiplicity else 1
    told: dict[str, dict[tuple[str, ...], tuple[str, ...]]] = {"id_atomic": {}, "ood_atomic": {}}
    inferred = []
    for fact in facts(stored, "train"):
        if fact.type == "train_inferred":
            inferred.append(fact)
        else:
            assert len(fact.prompt) == width + 1 and fact.prompt not in told[fact.type]
            assert fact.notes == {"bridge": None}
            told[fact.type][fact.prompt] = fact.answer
    num_id = len(told["id_atomic"])
    assert (num_id, len(told["ood_atomic"]), len(inferred)) == (288, 72, round(2.0 * 288))
    everything = told["id_atomic"] | told["ood_atomic"]
    relations = defaultdict(set)
    for *head, relation in everything:
        relations[tuple(head)].add(relation)
    assert len(relations) == 60 and {len(set_of) for set_of in relations.values()} == {6}

    def kinds(prompt: tuple[str, ...], answer: tuple[str, ...]) -> tuple[bool, bool]:
        """Whether the two hops are OOD facts, once they are shown to lead to the answer."""
        head, (first, second) = prompt[:-2], prompt[-2:]
        bridge = everything[(*head, first)]
        assert bridge[-1] == answer[-1] == "</a>" and everything[(*bridge[:-1], second)] == answer
        return (*head, first) in told["ood_atomic"], (*bridge[:-1], second) in told["ood_atomic"]

    seen: dict[str, set[tuple[str, ...]]] = {}
    splits = {split: facts(stored, split) for split in ("id", "ood")} | {"train": inferred}
    for split, found in splits.items():
        assert {kinds(fact.prompt, fact.answer) for fact in found} == {(split == "ood",) * 2}
        seen[split] = {fact.prompt for fact in found}
        assert len(seen[split]) == len(found)
    # What is left out: compositions with one OOD hop, which no split shows, and ID ones that the ratio did not take.
    all_pairs = {(*prompt, relation) for prompt, answer in everything.items() for relation in relations[answer[:-1]]}
    assert len(all_pairs) == 60 * 6 * 6
    both_ood = {
        (*prompt, relation)
        for prompt, answer in told["ood_atomic"].items()
        for relation in relations[answer[:-1]]
        if (*answer[:-1], relation) in told["ood_atomic"]
    }
    assert seen["ood"] == both_ood
    assert not seen["train"] & seen["id"]


def test_bridges_are_the_entities_between() -> None:
    stored = build(Composition(num_entities=30, num_relations=8, out_degree=4, ratio=2.0, ood_fraction=0.3, seed=2))
    told = {fact.prompt: fact.answer for fact in facts(stored, "train")}
    for fact in facts(stored, "id") + facts(stored, "ood"):
        assert told[fact.prompt[:2]][-2] == fact.notes["bridge"]


def test_two_token_entities_have_unique_names_of_equally_used_tokens() -> None:
    corpus = Composition(token_multiplicity=40, ratio=12.6)  # appendix C: 50 first and 50 last names
    vocabulary = corpus.vocabulary()
    assert vocabulary[:50] == [f"<first_{i}>" for i in range(50)]
    assert vocabulary[50:100] == [f"<last_{i}>" for i in range(50)]
    assert len(vocabulary) == 100 + 200 + 6
    train = list(corpus.splits()["train"])
    assert [block.prompts.shape[1] for block in train] == [3, 3, 4] and train[2].answers.shape == (478_800, 3)
    names = np.unique(train[0].prompts[:, :2], axis=0)
    assert len(names) == 2000 and (names[:, 0] < 50).all() and ((names[:, 1] >= 50) & (names[:, 1] < 100)).all()


def test_vocabulary_is_the_published_one() -> None:
    vocabulary = Composition().vocabulary()
    assert len(vocabulary) == 2206
    assert (vocabulary[0], vocabulary[1999], vocabulary[2000], vocabulary[2199]) == (
        "<e_0>",
        "<e_1999>",
        "<r_0>",
        "<r_199>",
    )
    assert vocabulary[2200:] == ["<mask>", "<sep>", "<a>", "</a>", "<q>", "</q>"]


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"out_degree": 201}, "out_degree"),
        ({"ratio": 19.5}, "ratio"),
        ({"ratio": 1e-9}, "ratio"),
        ({"ratio": -1.0}, "ratio"),
        ({"ood_fraction": 0.0}, "ood_fraction"),
        ({"ood_fraction": 1e-6}, "ood_fraction"),
        ({"ood_fraction": 1 - 1e-9}, "ood_fraction"),
        ({"num_entities": 20, "ood_fraction": 0.01}, "ood_fraction"),
        ({"num_entities": 20, "iid_fraction": 1e-6, "ood_fraction": 0.5}, "iid_fraction"),
        ({"token_multiplicity": 30}, "token_multiplicity"),
        ({"token_multiplicity": 50}, "token_multiplicity"),
        ({"probe_cap": 0}, "probe_cap"),
        ({"wrong_bridges": 0.1}, "wrong_bridges"),
        ({"wrong_tails": 1.1}, "wrong_tails"),
        ({"identity": 1e-9}, "identity"),
    ],
)
def test_impossible_parameters_are_named(parameters: dict[str, float], key: str) -> None:
    with pytest.raises(ParameterError) as error:
        Composition(**parameters).splits()
    assert error.value.key == key and "\n" not in str(error.value)


def test_the_bridge_is_said_before_the_tail_and_nothing_else_changes() -> None:
    values = {"num_entities": 40, "num_relations": 6, "out_degree": 4, "ratio": 2.0, "ood_fraction": 0.2}
    silent, said = (Composition(**values, bridge=bridge) for bridge in ("silent", "said"))
    assert silent.vocabulary() == said.vocabulary()
    graph = said.graph
    tails = {(edge // 4, int(graph.relation[edge])): int(graph.tail[edge]) for edge in range(len(graph.tail))}
    end = said.vocabulary().index("</a>")
    for split, blocks in said.splits().items():
        for block, other in zip(blocks, silent.splits()[split]):
            assert (block.prompts == other.prompts).all() and block.type == other.type
            assert (block.answers[:, -2:] == other.answers).all()
            for (head, *relations), answer in zip(block.prompts.tolist(), block.answers.tolist()):
                hops = [relation - 40 for relation in relations]
                bridge = tails[head, hops[0]]
                assert answer == ([bridge, end] if len(hops) == 1 else [bridge, tails[bridge, hops[1]], end])


GRAPH = {"num_entities": 40, "num_relations": 6, "out_degree": 4, "ratio": 2.0, "ood_fraction": 0.2}


@pytest.mark.parametrize("multiplicity", [None, 4])
def test_identity_rows_lead_from_entities_to_themselves_and_nothing_else_changes(multiplicity: int | None) -> None:
    plain, wider = (Composition(**GRAPH, token_multiplicity=multiplicity, identity=share) for share in (0.0, 0.5))
    before, after = ({split: facts(stored, split) for split in stored.sizes} for stored in (build(plain), build(wider)))
    rows = [fact for fact in after["train"] if fact.type == "identity"]
    names = {fact.prompt[:-1] for fact in after["train"] if fact.type == "id_atomic"}
    assert len({fact.prompt for fact in rows}) == len(rows) == 20
    assert all(fact.answer == (*fact.prompt, "</a>") and fact.prompt in names for fact in rows)
    assert sorted(fact.prompt for fact in after.pop("identity")) == sorted(fact.prompt for fact in rows)
    after["train"] = [fact for fact in after["train"] if fact.type != "identity"]
    assert before == after


def test_without_a_ratio_no_composition_is_trained_and_both_kinds_are_held_out() -> None:
    stored = build(Composition(**{**GRAPH, "ratio": 0.0}, identity=1.0))
    assert set(stored.sizes) == {"train", "id", "ood", "id_atomic", "ood_atomic", "identity"}
    assert stored.sizes["train"] == 40 * 4 + 40
    assert {len(fact.prompt) for fact in facts(stored, "train")} == {1, 2}
    other = build(Composition(**GRAPH))
    assert all(facts(stored, split) == facts(other, split) for split in ("id", "ood"))


@pytest.mark.parametrize("bridge", ["silent", "said"])
def test_with_one_position_every_prompt_is_as_long_as_a_composition(bridge: str) -> None:
    values = {**GRAPH, "bridge": bridge, "identity": 1.0}
    stored, plain = build(Composition(**values, one_position=True)), build(Composition(**values))
    assert stored.sizes == plain.sizes
    for split in stored.sizes:
        for fact, other in zip(facts(stored, split), facts(plain, split)):
            assert fact.prompt == (*other.prompt, *["<mask>"] * (3 - len(other.prompt)))
            assert (*fact.answer, "</a>") == other.answer and fact.type == other.type and fact.notes == other.notes


@pytest.mark.parametrize("multiplicity", [None, 10])
def test_wrong_bridges_and_tails_come_at_their_rates_in_trained_compositions_alone(multiplicity: int | None) -> None:
    sizes = {"num_entities": 100, "num_relations": 20, "ratio": 9.0, "token_multiplicity": multiplicity}
    right = Composition(**sizes, bridge="said")
    spoilt = Composition(**sizes, bridge="said", wrong_bridges=0.1, wrong_tails=0.4)
    width = 2 if multiplicity else 1
    entities = {fact.prompt[:-1] for fact in facts(build(right), "train") if fact.type == "id_atomic"}
    counts = {"bridges": 0, "tails": 0, "both": 0}
    for fact, other in zip(facts(build(spoilt), "train"), facts(build(right), "train")):
        assert fact.prompt == other.prompt and fact.notes == other.notes
        if fact.type != "train_inferred":
            assert fact == other
            continue
        assert fact.answer[-1] == "</a>"
        wrong = [fact.answer[i : i + width] != other.answer[i : i + width] for i in (0, width)]
        assert {fact.answer[:width], fact.answer[width:-1]} <= entities
        counts["bridges"] += wrong[0]
        counts["tails"] += wrong[1]
        counts["both"] += all(wrong)
    n = 17_100
    for what, share in {"bridges": 0.1, "tails": 0.4, "both": 0.04}.items():
        assert abs(counts[what] - share * n) < 5 * math.sqrt(share * n)
    held_out = [split for split in build(right).sizes if split not in ("train", "train_inferred")]
    assert all(facts(build(spoilt), split) == facts(build(right), split) for split in held_out)


def test_a_fact_that_is_filled_up_is_corrupted_by_no_rule_of_compositions() -> None:
    corpus = Composition(**GRAPH, one_position=True)
    splits = corpus.splits()
    (atomic,), (composed,) = splits["id_atomic"], splits["id"]
    assert corpus.corrupt(atomic, 2, Draws(0, "test")) is None
    assert corpus.corrupt(composed, 2, Draws(0, "test")) is not None
