"""Questions with their facts in the prompt: every fact is one that is trained, and four of them decide the question."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from pipeline.corpora.complex_in_context import ComplexInContext
from pipeline.corpora.complex_reasoning import ComplexReasoning
from pipeline.corpora.store import build
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import Fact, facts

SIZES: dict[str, Any] = {
    "num_entities": 40, "num_attributes": 2, "num_values": 6, "ood_fraction": 0.3, "train_fraction": 0.15,
    "hard_per_label": 1000,
}  # fmt: skip
HALVES = [half / 2 for half in range(-2, 14)]  # facts decide by their order alone, not as values are whole numbers
Said = tuple[str, ...]


def told(fact: Fact) -> list[Said]:
    words = fact.prompt[:-6]
    return [tuple(words[place : place + 3]) for place in range(0, len(words), 3)]


def question(fact: Fact) -> tuple[str, str, str]:
    start, attribute, first, mask, second, end = fact.prompt[-6:]
    assert (start, mask, end) == ("<q>", "<mask>", "</q>")
    return attribute, first, second


def order(label: str) -> int:
    return int(label[-2]) - 1


@pytest.fixture(scope="module")
def plain() -> dict[str, list[Fact]]:
    stored = build(ComplexReasoning(**SIZES))
    return {split: facts(stored, split) for split in ("train", "ood_atomic", "test_hard")}


@pytest.mark.parametrize("chain", [False, True])
def test_the_needed_facts_are_told_and_decide(chain: bool, plain: dict[str, list[Fact]]) -> None:
    stored = build(ComplexInContext(**SIZES, chain=chain, distractors=2))
    trained = [fact for fact in plain["train"] if fact.type != "id_atomic"]
    compared = {(f.prompt[0], f.prompt[2], f.prompt[4]): order(f.answer[1]) for f in trained}
    compared |= {(attribute, b, a): -sign for (attribute, a, b), sign in compared.items()}
    value = {(f.prompt[1], f.prompt[2]): int(f.answer[1][1:-1]) for f in plain["train"] if f.type == "id_atomic"}
    sizes, deciding_places = Counter[int](), Counter[int]()
    for split in ("train", "id", "ood", "test_hard", "hard_0", "hard_2"):
        for fact in facts(stored, split):
            attribute, a, b = question(fact)
            said = told(fact)
            sizes[len(said)] += split == "train"
            assert {"hard_0": {4}, "hard_2": {8}}.get(split, {4, 6, 8}) >= {len(said)}
            is_value = [one[1] == attribute for one in said]
            values = {one[0]: int(one[2][1:-1]) for one, is_it in zip(said, is_value) if is_it}
            comparisons = {one[0]: one for one, is_it in zip(said, is_value) if not is_it}
            assert len(values) == len(comparisons) == len(said) // 2 and not {a, b} & {*values}
            assert all(value[entity, attribute] == number for entity, number in values.items())
            for first, label, near in comparisons.values():
                assert label.startswith(attribute[:-1]) and compared[attribute, first, near] == order(label)
            (_, label_a, c), (_, label_b, d) = comparisons[a], comparisons[b]
            assert len({a, b, c, d}) == 4 and {c, d} <= {*values}
            # All values that a and b can have, by what is said of them.
            can = [
                {x for x in HALVES if (x > values[near]) - (x < values[near]) == order(label)}
                for label, near in ((label_a, c), (label_b, d))
            ]
            assert {(x > y) - (x < y) for x in can[0] for y in can[1]} == {order(fact.answer[-2])}
            entities = Counter(entity for one in comparisons.values() for entity in (one[0], one[2]))
            assert set(entities.values()) == {1}  # nobody is told of twice
            needed = [
                (a, label_a, c),
                (c, attribute, f"<{values[c]}>"),
                (b, label_b, d),
                (d, attribute, f"<{values[d]}>"),
            ]
            steps = [word for one in needed for word in one] if chain else []
            assert list(fact.answer[:-3]) == steps and fact.answer[-3] == "<a>" and fact.answer[-1] == "</a>"
            deciding_places[said.index(needed[0])] += 1
    assert set(sizes) == {4, 6, 8} and min(sizes.values()) > 0.2 * sizes.total()
    assert set(deciding_places) == set(range(8))  # in random order


def test_the_questions_are_those_of_the_parametric_task(plain: dict[str, list[Fact]]) -> None:
    stored = build(ComplexInContext(**SIZES, distractors=1, prompts=3))
    asked = {split: [question(fact) for fact in facts(stored, split)] for split in ("train", "test_hard", "hard_1")}
    hard = {(fact.prompt[0], fact.prompt[2], fact.prompt[4]) for fact in plain["test_hard"]}
    assert {*asked["hard_1"]} == {*asked["test_hard"]} == hard and len(hard) > 5
    trained = {(f.prompt[0], f.prompt[2], f.prompt[4]) for f in plain["train"] if f.type != "id_atomic"}
    assert {*asked["train"]} <= trained and len({*asked["train"]}) > 0.7 * len(trained)
    assert set(Counter(asked["train"]).values()) <= {1, 2, 3} and Counter(asked["train"]).most_common(1)[0][1] == 3


def test_what_is_left_out_is_undecided() -> None:
    """Every question without a prompt has no two facts that decide it, by trying all."""
    stored = build(ComplexInContext(**SIZES, distractors=0))
    alone = build(ComplexReasoning(**SIZES))
    train = facts(alone, "train")
    value = {(f.prompt[1], f.prompt[2]): int(f.answer[1][1:-1]) for f in train if f.type == "id_atomic"}
    near: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for fact in train:
        if fact.type != "id_atomic":
            attribute, _, a, _, b = fact.prompt[:5]
            for one, other, sign in ((a, b, order(fact.answer[1])), (b, a, -order(fact.answer[1]))):
                if (other, attribute) in value:
                    near.setdefault((attribute, one), set()).add((other, sign))
    kept = {question(fact) for fact in facts(stored, "train")}
    left_out = 0
    for fact in train:
        if fact.type == "id_atomic":
            continue
        attribute, a, b = fact.prompt[0], fact.prompt[2], fact.prompt[4]
        wanted, decided = order(fact.answer[1]), False
        for c, to_c in near.get((attribute, a), ()):
            for d, to_d in near.get((attribute, b), ()):
                if c != d and not {c, d} & {a, b}:
                    v = value[c, attribute], value[d, attribute]
                    can = [{x for x in HALVES if (x > w) - (x < w) == to} for w, to in zip(v, (to_c, to_d))]
                    decided |= {(x > y) - (x < y) for x in can[0] for y in can[1]} == {wanted}
        assert decided == ((attribute, a, b) in kept)
        left_out += not decided
    assert left_out > 10


@pytest.mark.parametrize(
    ("parameters", "key"), [({"distractors": 19}, "distractors"), ({"train_fraction": 0.001}, "train_fraction")]
)
def test_impossible_parameters_are_named(parameters: dict[str, Any], key: str) -> None:
    with pytest.raises(ParameterError) as error:
        ComplexInContext(**{**SIZES, **parameters}).splits()
    assert error.value.key == key
