"""What every corpus promises, proved for each file of the room: add a corpus, and it is covered here."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.fields import parameters_of
from pipeline.config.registry import load, names, room_name
from pipeline.corpora.base import PAD, Corpus
from pipeline.corpora.composition import Composition
from pipeline.corpora.group import GROUP, MODULAR
from pipeline.corpora.published import write_published
from pipeline.corpora.store import StoredCorpus, build
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import empty_cache, fresh_hash
from tests.tiny import ROOT

CORPORA = names("corpora")

# The beginnings of the content hashes of small instances: one that changes is another data set for the same recipe, so
# change it only together with what its generator is meant to do.
COMPOSITION = {"num_entities": 64, "num_relations": 9, "out_degree": 5, "ratio": 1.5, "ood_fraction": 0.3}
COMPARISON = {"num_entities": 40, "num_attributes": 3, "num_values": 5, "ood_fraction": 0.3}
PINNED: list[tuple[str, dict[str, Any], str]] = [
    ("composition", COMPOSITION, "a1bca7811ac42d05"),
    ("composition", COMPOSITION | {"token_multiplicity": 8, "seed": 5}, "085ec131b8b1f9fc"),
    ("comparison", COMPARISON, "c6fdfd91eb833447"),
    ("complex_reasoning", COMPARISON | {"train_fraction": 0.1}, "67867b8d750c393c"),
    ("group", {"group": "Z23", "operation": "x^2+xy+y^2", "label_noise": 0.1}, "8b27ac759ea05d26"),
    ("group", {"group": "D6", "operation": "aba^-1", "template": "eos a op b = c eos"}, "a0c8a796a6232a39"),
]
IDS = [f"{name}-{i}" for i, (name, _, _) in enumerate(PINNED)]


def corpus_of(name: str, parameters: dict[str, Any]) -> Corpus:
    kind: Any = load("corpora", name, "corpus")
    return kind(**parameters)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("published")
    write_published(
        build(Composition(num_entities=30, num_relations=6, out_degree=4, ratio=2, ood_fraction=0.2)), folder
    )
    return str(folder)


def prove(stored: StoredCorpus) -> None:
    """Every promise of `pipeline.corpora.base`, checked on the tokens themselves."""
    corpus, tokens = stored.corpus, stored.tokens
    words = corpus.vocabulary()
    assert len(set(tokens)) == len(tokens) and tokens[: len(words)] == words
    assert tokens[len(words)] == PAD and len(tokens) % 8 == 0
    assert len(tokens) - len(words) - 1 >= 8  # reserved tokens
    prompts: dict[str, set[tuple[int, ...]]] = {split: set() for split in stored.sizes}
    for split, size in stored.sizes.items():
        blocks = list(stored.blocks(split))
        assert sum(map(len, blocks)) == size > 0
        for block in blocks:
            assert len(block.prompts) == len(block.answers) and block.type
            for part in (block.prompts, block.answers):
                assert part.shape[1] >= 1 and part.min() >= 0 and part.max() < len(words)  # no reserved one is shown
            prompts[split].update(map(tuple, block.prompts.tolist()))
    assert stored.held_out and "train" not in stored.held_out
    for split in prompts:
        if split in stored.held_out:
            assert not prompts[split] & prompts["train"]
        else:
            assert prompts[split] <= prompts["train"]


@pytest.mark.parametrize("name", CORPORA)
def test_defaults_keep_the_contract(name: str, published: str) -> None:
    stored = build(corpus_of(name, {"path": published} if name == "published" else {}))
    assert room_name(stored.corpus) == name
    prove(stored)


def small(name: str, published: str) -> st.SearchStrategy[dict[str, Any]]:
    """Small parameters of any corpus, from the bounds that its fields state."""
    kind = load("corpora", name, "corpus")
    types = typing.get_type_hints(kind)
    drawn = {field.name: values(types[field.name], field) for field in parameters_of(kind)}
    if name == "group":
        drawn["group"] = st.sampled_from(["Z2", "Z7", "Z12", "C5", "D3", "D4", "S3", "A4"])
        drawn["operation"] = st.sampled_from([*MODULAR, *GROUP])
        drawn["template"] = st.sampled_from(["a b = c", "a op b = c", "eos b a = c eos"])
    if name == "published":
        drawn["path"] = st.just(published)
    return st.fixed_dictionaries(drawn)


def values(kind: Any, field: dataclasses.Field[Any]) -> st.SearchStrategy[Any]:
    options, bounds = typing.get_args(kind) or (kind,), field.metadata
    least = bounds.get("ge", bounds.get("gt", 0))
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(options)
    if bool in options:
        return st.booleans()
    if int in options:
        numbers = st.integers(least + ("gt" in bounds), max(least + 1, 30))
        return st.none() | st.none() | numbers if type(None) in options else numbers
    if float in options:
        most = bounds.get("le", bounds.get("lt", 3.0))
        return st.floats(least, most, exclude_min="gt" in bounds, exclude_max="lt" in bounds)
    return st.just(field.default)


@pytest.mark.parametrize("name", CORPORA)
def test_random_parameters_keep_the_contract_or_are_refused_in_one_line(name: str, published: str) -> None:
    outcomes = {"built": 0, "refused": 0}

    @settings(max_examples=150, deadline=None, database=None, derandomize=True)
    @given(parameters=small(name, published))
    def check(parameters: dict[str, Any]) -> None:
        try:
            stored = build(corpus_of(name, parameters))
        except ParameterError as error:
            outcomes["refused"] += 1
            assert error.key in parameters
            assert "\n" not in str(error) and len(str(error)) < 200
            return
        outcomes["built"] += 1
        prove(stored)
        assert fresh_hash(corpus_of(name, parameters)) == stored.content_hash

    check()
    assert outcomes["built"] >= (1 if name == "published" else 10), outcomes  # which has but one parameter


@pytest.mark.parametrize(("name", "parameters", "content_hash"), PINNED, ids=IDS)
def test_content_is_the_pinned_one(name: str, parameters: dict[str, Any], content_hash: str) -> None:
    stored = build(corpus_of(name, parameters))
    assert stored.content_hash.startswith(content_hash)
    prove(stored)


@pytest.mark.parametrize(("name", "parameters", "content_hash"), PINNED, ids=IDS)
def test_another_seed_is_another_content(name: str, parameters: dict[str, Any], content_hash: str) -> None:
    assert not build(corpus_of(name, parameters | {"seed": 77})).content_hash.startswith(content_hash)


SCRIPT = """
import json, sys
from pipeline.config.registry import load
from pipeline.corpora.store import build
wanted = json.load(sys.stdin)
print(json.dumps([build(load("corpora", name, "")(**parameters)).content_hash for name, parameters, _ in wanted]))
"""


def test_content_does_not_depend_on_the_order_of_hashing() -> None:
    for seed in ("1", "2"):
        with empty_cache():
            result = subprocess.run(
                [sys.executable, "-c", SCRIPT],
                cwd=ROOT,
                env=os.environ | {"PYTHONHASHSEED": seed},
                input=json.dumps(PINNED),
                capture_output=True,
                text=True,
                check=True,
            )
        found = json.loads(result.stdout)
        assert [content_hash[:16] for content_hash in found] == [content_hash for _, _, content_hash in PINNED]


def test_the_room_needs_no_torch() -> None:
    modules = [f"pipeline.corpora.{name}" for name in (*CORPORA, "__main__")] + [
        "pipeline.corpora.store",
        "pipeline.circuits._counterfactuals",
    ]
    script = f"import sys, {', '.join(modules)}; print({{'torch', 'transformers', 'datasets'}} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
