"""Representations of groups against tables of textbooks, and what models have of them on parts built by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.circuits._irreps import Irreps, letters
from pipeline.circuits._pairs import CorpusPairs
from pipeline.circuits.representations import ProductTable, Representations
from pipeline.corpora.group import Group
from pipeline.corpora.store import build
from pipeline.models.gpt2_bare import Gpt2Bare
from pipeline.utils.errors import ParameterError

GOLDEN = (1 + 5**0.5) / 2


def irreps_of(group: str) -> tuple[Irreps, list[str]]:
    elements = Group(group=group, operation="+" if group[0] == "Z" else "*").elements
    return Irreps(elements.product), elements.names


def pairs_of(group: str) -> Any:
    return Representations().choose(CorpusPairs(build(Group(group=group, operation="*", template="a b = c"))))


# Character tables as textbooks print them: at these elements, by name.
TABLES = {
    "S4": {
        "at": ("0123", "0132", "0231", "1032", "1230"),
        "1a": (1, 1, 1, 1, 1), "1b": (1, -1, 1, 1, -1), "2a": (2, 0, -1, 2, 0), "3a": (3, 1, 0, -1, -1),
        "3b": (3, -1, 0, -1, 1),
    },
    "S5": {
        "at": ("01234", "01243", "10324", "01342", "10342", "02341", "12340"),
        "1a": (1, 1, 1, 1, 1, 1, 1), "1b": (1, -1, 1, 1, -1, -1, 1), "4a": (4, 2, 0, 1, -1, 0, -1),
        "4b": (4, -2, 0, 1, 1, 0, -1), "5a": (5, 1, 1, -1, 1, -1, 0), "5b": (5, -1, 1, -1, -1, 1, 0),
        "6a": (6, 0, -2, 0, 0, 0, 1),
    },
    "A5": {
        "at": ("01234", "10324", "01342", "12340"),
        "1a": (1, 1, 1, 1), "3a": (3, -1, 0, 1 - GOLDEN), "3b": (3, -1, 0, GOLDEN), "4a": (4, 0, 1, -1),
        "5a": (5, 1, -1, 0),
    },
    "A4": {"at": ("0123", "1032", "0231"), "1a": (1, 1, 1), "2a": (2, 2, -1), "3a": (3, -1, 0)},
    "D5": {
        "at": ("r0", "r1", "r2", "s0"),
        "1a": (1, 1, 1, 1), "1b": (1, 1, 1, -1), "2a": (2, GOLDEN - 1, -GOLDEN, 0), "2b": (2, -GOLDEN, GOLDEN - 1, 0),
    },
    "C6": {
        "at": ("r0", "r1", "r2", "r3"),
        "1a": (1, 1, 1, 1), "1b": (1, -1, 1, -1), "2a": (2, 1, -1, -2), "2b": (2, -1, -1, 2),
    },
}  # fmt: skip


@pytest.mark.parametrize("group", TABLES)
def test_characters_are_those_of_the_textbooks(group: str) -> None:
    found, names = irreps_of(group)
    at = [names.index(name) for name in TABLES[group]["at"]]
    characters = {irrep.name: irrep.character[at] for irrep in found.irreps}
    expected = {name: values for name, values in TABLES[group].items() if name != "at"}
    if group == "A5":  # which of the two classes of five-cycles comes first is a matter of names
        swapped = dict(zip(("3a", "3b"), (expected["3b"], expected["3a"])))
        if abs(characters["3a"][-1] - swapped["3a"][-1]) < 1e-9:
            expected |= swapped
    assert set(characters) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(characters[name], values, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("group", ["Z2", "C7", "C12", "D4", "D7", "D12", "S3", "S4", "S5", "A3", "A4", "A5", "A6"])
def test_kernels_project_on_spaces_that_make_up_all_functions(group: str) -> None:
    found, _ = irreps_of(group)
    m = len(found.quotient)
    projections = [found.project(irrep, np.eye(m)) for irrep in found.irreps]
    np.testing.assert_allclose(sum(projections), np.eye(m), atol=1e-9)
    for i, j in itertools.combinations_with_replacement(range(len(projections)), 2):
        expected = projections[i] if i == j else np.zeros((m, m))
        np.testing.assert_allclose(projections[i] @ projections[j], expected, atol=1e-9)


def test_a_kernel_spans_the_matrix_entries_of_its_representation() -> None:
    found, names = irreps_of("D7")
    entries = []
    for name in names:
        angle = 2 * 2 * np.pi * int(name[1:]) / 7  # turns by two steps: 2b
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        entries.append((turn @ np.diag([1, -1 if name[0] == "s" else 1])).ravel())
    for irrep in found.irreps:
        expected = np.array(entries) if irrep.name == "2b" else np.zeros((14, 4))
        np.testing.assert_allclose(found.project(irrep, np.array(entries)), expected, atol=1e-9)


def test_letters_go_on_after_z() -> None:
    assert [letters(i) for i in (0, 25, 26, 51, 52, 702)] == ["a", "z", "aa", "az", "ba", "aaa"]


def test_logits_that_are_characters_are_found() -> None:
    pairs = pairs_of("S4")
    table, product = ProductTable(pairs), Group(group="S4", operation="*").elements
    right = product.product[table.a, table.b]
    standard = table.group.irreps[3]
    logits = np.full((len(pairs), table.m + 2), 7.0)  # "=" and padding are no elements
    for row in range(len(pairs)):
        for c in range(table.m):
            g = product.product[right[row], product.inverse[c]]
            logits[row, c] = 2 * standard.character[g] + table.group.irreps[1].character[g] + row
    found = table.likeness(logits)
    # Of power m^3 each, before the factors.
    assert found["3a"] == pytest.approx(2 / 5**0.5) and found["1b"] == pytest.approx(1 / 5**0.5)
    assert all(abs(value) < 1e-9 for name, value in found.items() if name not in ("3a", "1b"))


def test_neurons_of_a_product_are_told_from_those_of_its_sides() -> None:
    pairs = pairs_of("S4")
    table = ProductTable(pairs)
    rng = np.random.default_rng(0)
    two, three, other = table.group.irreps[2:5]
    of_a, of_ab = (table.group.project(irrep, rng.normal(size=(24, 3))) for irrep in (two, three))
    neurons = np.hstack([of_a[table.a], of_ab[table.answer]])
    means = table.means(neurons)
    np.testing.assert_allclose(means["a"][:, :3], of_a, atol=1e-9)
    np.testing.assert_allclose(means["a"][:, 3:], 0, atol=1e-9)
    np.testing.assert_allclose(means["ab"][:, 3:], of_ab, atol=1e-9)
    variance = np.square(neurons).sum()
    shares = {name: share for _, name, share in table.shares("", means["ab"], variance / 24)}
    assert shares["3a"] == pytest.approx(np.square(of_ab).sum() * 24 / variance) and shares["2a"] < 1e-12
    np.testing.assert_allclose(table.along_product(neurons, [three]), np.hstack([0 * neurons[:, :3], neurons[:, 3:]]),
                               atol=1e-9)  # fmt: skip
    np.testing.assert_allclose(table.along_product(neurons, [two, other]), 0, atol=1e-9)


def test_the_parts_of_a_model_are_those_of_transformers_and_of_least_squares() -> None:
    pairs = pairs_of("D5")
    table = ProductTable(pairs)
    torch.manual_seed(0)
    model: Any = Gpt2Bare(n_embd=16, n_head=2, n_inner=24).build(16).eval()
    found = {
        (row["measure"], row["representation"]): row["value"]
        for row in Representations().run(model, pairs, key=["2a"]).to_pylist()
    }
    tokens, answer = torch.from_numpy(pairs.clean).long(), torch.from_numpy(pairs.answers[:, 0]).long()
    trained = torch.from_numpy(pairs.notes["trained"]).bool()
    seen: list[torch.Tensor] = []
    out = model.transformer.h[0].mlp.c_proj
    hook = out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, -1].detach()))
    logits = model(tokens).logits[:, -1]
    hook.remove()
    assert found["train loss", ""] == pytest.approx(F.cross_entropy(logits[trained], answer[trained]).item(), rel=1e-5)

    # The span of the entries of a rotation by one step, for the pairs ab, by least squares.
    angle = 2 * np.pi / 5 * (np.arange(10) % 5)
    sign = np.repeat([1, -1], 5)
    entries = np.stack([np.cos(angle), np.sin(angle), sign * np.cos(angle), sign * np.sin(angle)], 1)
    embedding = model.transformer.wte.weight[:10].detach().double().numpy()
    fitted = entries @ np.linalg.lstsq(entries, embedding, rcond=None)[0]
    assert found["embedding", "2a"] == pytest.approx(np.square(fitted).sum() / np.square(embedding).sum(), rel=1e-5)
    neurons = seen[0].double().numpy()
    for name, element in {"a": table.a, "b": table.b, "ab": table.answer}.items():
        part = entries[element] @ np.linalg.lstsq(entries[element], neurons, rcond=None)[0]
        share = np.square(part).sum() / np.square(neurons - neurons.mean(0)).sum()
        assert found[f"neurons {name}", "2a"] == pytest.approx(share, rel=1e-5)
    key = torch.from_numpy(part)
    for name, values, chosen in (
        ("restricted", torch.from_numpy(neurons.mean(0)) + key, torch.ones_like(trained)),
        ("excluded", torch.from_numpy(neurons) - key, trained),
    ):
        hook = out.register_forward_pre_hook(
            lambda _, inputs, values=values: torch.cat([inputs[0][:, :-1], values[:, None].float()], 1)
        )
        changed = model(tokens).logits[:, -1]
        hook.remove()
        loss = F.cross_entropy(changed[chosen], answer[chosen]).item()
        assert found[f"{name} loss", ""] == pytest.approx(loss, rel=1e-5)
        assert abs(loss - found["train loss", ""]) > 1e-4


@pytest.mark.parametrize(
    "corpus", [{"operation": "aba"}, {"label_noise": 0.1}, {"group": "Z7", "operation": "-"}], ids=str
)
def test_what_is_no_product_of_a_group_is_refused(corpus: dict[str, Any]) -> None:
    source = CorpusPairs(build(Group(**{"group": "S3", "operation": "*", "template": "a b = c", **corpus})))
    with pytest.raises(ParameterError, match="corpus: is not all products of a group"):
        Representations().choose(source)
