"""Algorithmic tasks: every table worked out again by plain arithmetic, or by permuting and turning things."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import strategies as st

from pipeline.corpora.group import GROUP, MODULAR, Group
from pipeline.corpora.store import StoredCorpus, build
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import facts
from tests.corpora.promises import prove_near


def table(stored: StoredCorpus) -> dict[tuple[str, str], str]:
    """(a, b) -> c of all examples of the default template."""
    found = {}
    for split in ("train", "id"):
        for fact in facts(stored, split):
            a, sign, b, equals = fact.prompt
            assert (sign, equals) == (stored.corpus.as_dict()["operation"], "=") and (a, b) not in found
            found[a, b] = fact.answer[0]
    return found


def divide(a: int, b: int, p: int) -> int:
    return next(c for c in range(p) if c * b % p == a % p)


EXPECTED: dict[str, Callable[[int, int, int], int]] = {
    "+": lambda a, b, p: a + b,
    "-": lambda a, b, p: a - b,
    "*": lambda a, b, p: a * b,
    "/": divide,
    "x^2+y^2": lambda a, b, p: a * a + b * b,
    "x^2+xy+y^2": lambda a, b, p: a * a + a * b + b * b,
    "x^2+xy+y^2+x": lambda a, b, p: a * a + a * b + b * b + a,
    "x^3+xy": lambda a, b, p: a * a * a + a * b,
    "x^3+xy^2+y": lambda a, b, p: a * a * a + a * b * b + b,
    "+*": lambda a, b, p: a * b if a % 2 else a + b,
    "+-": lambda a, b, p: a - b if a % 2 else a + b,
    "/-": lambda a, b, p: divide(a, b, p) if b % 2 else a - b,
}


@pytest.mark.parametrize("operation", MODULAR)
def test_modular_tables(operation: str) -> None:
    found = table(build(Group(group="Z11", operation=operation)))
    pairs = [(a, b) for a in range(11) for b in range(11) if operation != "/" or b]
    assert found == {(str(a), str(b)): str(EXPECTED[operation](a, b, 11) % 11) for a, b in pairs}


def test_division_leaves_out_what_has_no_quotient() -> None:
    found = table(build(Group(group="Z9", operation="/")))
    assert {b for _, b in found} == set("124578") and all(int(c) * int(b) % 9 == int(a) for (a, b), c in found.items())
    mixed = table(build(Group(group="Z9", operation="/-")))
    assert {b for _, b in mixed} == set("01245678")  # 3 is odd and has no inverse
    assert mixed["1", "4"] == "6" and mixed["1", "5"] == "2"


def compose(first: str, second: str) -> str:
    return "".join(second[int(place)] for place in first)


def invert(permutation: str) -> str:
    return "".join(str(permutation.index(str(place))) for place in range(len(permutation)))


def is_even(permutation: str) -> bool:
    return sum(x > y for x, y in itertools.combinations(permutation, 2)) % 2 == 0


@pytest.mark.parametrize("name", ["S3", "S4", "A4"])
@pytest.mark.parametrize("operation", GROUP)
def test_permutation_tables(name: str, operation: str) -> None:
    elements = ["".join(map(str, places)) for places in itertools.permutations(range(int(name[1])))]
    elements = [element for element in elements if name[0] == "S" or is_even(element)]
    expected = {
        "*": compose,
        "aba": lambda a, b: compose(compose(a, b), a),
        "aba^-1": lambda a, b: compose(compose(a, b), invert(a)),
    }[operation]
    found = table(build(Group(group=name, operation=operation)))
    assert found == {(a, b): expected(a, b) for a in elements for b in elements}


def test_dihedral_table_is_that_of_turning_and_flipping_a_polygon() -> None:
    n = 5
    # A symmetry as the places to which it takes the corners; a product applies its right factor first.
    places = {f"r{k}": tuple((x + k) % n for x in range(n)) for k in range(n)}
    places |= {f"s{k}": tuple((k - x) % n for x in range(n)) for k in range(n)}
    names = {where: name for name, where in places.items()}
    expected = {(a, b): names[tuple(places[a][places[b][x]] for x in range(n))] for a in places for b in places}
    assert table(build(Group(group="D5", operation="*"))) == expected
    inverse = {a: b for (a, b), c in expected.items() if c == "r0"}
    conjugates = {(a, b): expected[expected[a, b], inverse[a]] for a, b in expected}
    assert table(build(Group(group="D5", operation="aba^-1"))) == conjugates


def test_cyclic_table() -> None:
    found = table(build(Group(group="C7", operation="*")))
    assert found == {(f"r{a}", f"r{b}"): f"r{(a + b) % 7}" for a in range(7) for b in range(7)}


@pytest.mark.parametrize(
    ("parameters", "pairs", "tokens"),
    [
        ({"group": "Z97", "operation": "+"}, 9_409, 97 + 2),
        ({"group": "Z97", "operation": "/"}, 9_312, 97 + 2),
        ({"group": "S5", "operation": "*"}, 14_400, 120 + 2),
        ({"group": "Z113", "operation": "+", "template": "a b = c"}, 12_769, 114),
        ({"group": "Z97", "operation": "+", "template": "eos a op b = c eos"}, 9_409, 97 + 3),
    ],
)
def test_sizes_are_those_of_the_papers(parameters: dict[str, str], pairs: int, tokens: int) -> None:
    corpus = Group(**parameters)
    stored = build(corpus)
    assert stored.sizes == {"train": round(0.3 * pairs), "id": pairs - round(0.3 * pairs)}
    assert len(corpus.vocabulary()) == tokens


def test_any_number_of_pairs_can_be_asked_for() -> None:
    # Nanda et al. train on 30 % of the table, rounded down.
    assert build(Group(group="Z113", train_fraction=3830 / 113**2)).sizes["train"] == 3830


@pytest.mark.parametrize(
    ("template", "prompt", "answer"),
    [
        ("a b = c", ("2", "3", "="), ("0",)),
        ("eos a op b = c eos", ("<eos>", "2", "+", "3", "="), ("0", "<eos>")),
        ("b op a = c", ("3", "+", "2", "="), ("0",)),
        ("a b = op c", ("2", "3", "="), ("+", "0")),
    ],
)
def test_templates(template: str, prompt: tuple[str, ...], answer: tuple[str, ...]) -> None:
    stored = build(Group(group="Z5", template=template))
    found = {fact.prompt: fact.answer for split in ("train", "id") for fact in facts(stored, split)}
    assert len(found) == 25 and found[prompt] == answer


def test_label_noise_replaces_trained_answers_only() -> None:
    clean, noisy = (build(Group(group="Z23", train_fraction=0.5, label_noise=noise)) for noise in (0.0, 0.25))
    assert facts(clean, "id") == facts(noisy, "id")
    ours, theirs = facts(clean, "train"), facts(noisy, "train")
    assert [fact.prompt for fact in ours] == [fact.prompt for fact in theirs]
    assert sum(a.answer != b.answer for a, b in zip(ours, theirs)) == round(0.25 * len(ours))


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"group": "Q8"}, "group"),
        ({"group": "Z1"}, "group"),
        ({"group": "S99999999999"}, "group"),
        ({"group": "Z97 "}, "group"),
        ({"operation": "++"}, "operation"),
        ({"group": "S5", "operation": "+"}, "operation"),
        ({"template": "a b c"}, "template"),
        ({"template": "a b = c c"}, "template"),
        ({"template": "a = b c"}, "template"),
        ({"template": ""}, "template"),
        ({"group": "Z2", "train_fraction": 0.01}, "train_fraction"),
        ({"label_noise": 1.0}, "label_noise"),
    ],
)
def test_impossible_parameters_are_named(parameters: dict[str, object], key: str) -> None:
    with pytest.raises(ParameterError) as error:
        Group(**parameters).splits()
    assert error.value.key == key and "\n" not in str(error.value)


def test_random_groups_operations_and_templates_keep_the_contract() -> None:
    drawn = {
        "group": st.sampled_from(["Z2", "Z7", "Z12", "C5", "D3", "D4", "S3", "A4"]),
        "operation": st.sampled_from([*MODULAR, *GROUP]),
        "template": st.sampled_from(["a b = c", "a op b = c", "eos b a = c eos"]),
    }
    prove_near(Group.tiny(), drawn)
