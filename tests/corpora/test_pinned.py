"""What is generated stays the same, on every machine: the content hashes of small corpora."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from pipeline.config.registry import load
from pipeline.corpora.base import Corpus
from pipeline.corpora.store import build
from tests.corpora.facts import empty_cache
from tests.corpora.promises import prove
from tests.tiny import ROOT

# The beginnings of the content hashes of small instances: one that changes is another data set for the same recipe, so
# change it only together with what its generator is meant to do.
COMPOSITION = {"num_entities": 64, "num_relations": 9, "out_degree": 5, "ratio": 1.5, "ood_fraction": 0.3}
REMEDIES = {"bridge": "said", "identity": 0.5, "one_position": True, "wrong_bridges": 0.1, "wrong_tails": 0.2}
K_HOP = {"num_entities": 20, "num_relations": 4, "most_hops": 40, "per_hop": 100, "held_out_per_hop": 20}
COMPARISON = {"num_entities": 40, "num_attributes": 3, "num_values": 5, "ood_fraction": 0.3}
INDUCTION = {"vocabulary_size": 12, "length": 11, "shortest": 2, "longest": 5, "train_rows": 200, "id_rows": 50}
BACKCOPY = {"vocabulary_size": 12, "triggers": 2, "length": 8, "train_rows": 200, "id_rows": 50}
VECTORS = {"modulus": None, "fault": "conditional", "train_size": 500, "test_size": 50}
LANGUAGES = {"symbols": 6, "longest": 8, "length": 24, "languages": 20, "train_rows": 120, "test_rows": 30}
PROGRAMS = {"variables": 2, "most_lines": 3, "train_rows": 200, "id_rows": 50}
OPPOSING = {"vocabulary_size": 8, "length": 5, "rows": 60, "loud": 6, "id_rows": 12}
ROOMS = {"names": 9, "max_hops": 2, "more_hops": 1, "train_rows": 200, "test_rows": 30}
DARK = {"size": 5, "steps": 6, "learning_episodes": 20, "episodes": 3, "histories": 60, "test_histories": 12}
CLAUSES = {"lexicon": 3, "longest": 9, "train_rows": 300, "id_rows": 40, "gen_rows": 40}
DYCK = {"types": 3, "depth": 4, "longest": 20, "train_rows": 200, "id_rows": 30, "gen_rows": 30}
POS_ICL = {"vocabulary_size": 40, "unseen": 6, "train_rows": 400, "eval_rows": 40}
PINNED: list[tuple[str, dict[str, Any], str]] = [
    ("composition", COMPOSITION, "a1bca7811ac42d05"),
    ("composition", COMPOSITION | {"token_multiplicity": 8, "seed": 5}, "085ec131b8b1f9fc"),
    ("composition", COMPOSITION | REMEDIES, "f325a025e1db93d9"),
    ("comparison", COMPARISON, "c6fdfd91eb833447"),
    ("k_hop", K_HOP, "f570664fc99b3092"),
    ("complex_reasoning", COMPARISON | {"train_fraction": 0.1}, "67867b8d750c393c"),
    ("complex_in_context", COMPARISON | {"train_fraction": 0.1, "chain": True}, "20cd7942f1b8c4ba"),
    ("pos_icl", POS_ICL, "77bc43fba1e16250"),
    ("concept_grid", {"underspecified": 0.3}, "5528d154388025f6"),
    ("question_formation", CLAUSES, "3a6925c0a0243842"),
    ("tense_reinflection", CLAUSES, "d8560ad390fc9197"),
    ("dyck", DYCK, "12ecf2839cfb434f"),
    ("dyck", DYCK | {"unseen": "part"}, "4c5755f97fa087d8"),
    ("induction", INDUCTION, "154c5190068efa63"),
    ("in_context_languages", LANGUAGES, "794216043aafcf1a"),
    ("toy_programs", PROGRAMS, "abe639652e151d12"),
    ("opposing_pairs", OPPOSING, "2bdc3e625f5d0e93"),
    ("bigram_backcopy", BACKCOPY, "1f99b49a754189b3"),
    ("group", {"group": "Z23", "operation": "x^2+xy+y^2", "label_noise": 0.1}, "8b27ac759ea05d26"),
    ("babi", {"tasks": (2, 9, 14, 18, 19), "questions": 40, "test_questions": 20}, "798e0cb45268e4a9"),
    ("graph_isomorphism", {"max_vertices": 6, "ood_vertices": 7, "pairs": 120, "test_pairs": 40}, "a13131a236554f12"),
    ("triples", {"invented": 50}, "26a557f44b9f8e18"),
    ("group", {"group": "D6", "operation": "aba^-1", "template": "eos a op b = c eos"}, "a0c8a796a6232a39"),
    ("ordinals", {"sets": ["days", "months"], "labels": 3, "rows": 500, "held_out_rows": 50}, "e3b9094ea9c44c61"),
    ("word_removal", {"tasks": ("remove", "write"), "rows": 30, "test_rows": 10}, "dfad3fd8d29c5f7e"),
    ("grammar", {"train_size": 200, "test_size": 50}, "0721f440f7d25ded"),
    ("vector_chain", {"train_size": 500, "test_size": 50}, "b600220b6b97c634"),
    ("vector_chain", VECTORS, "94d555204999a461"),
    ("behaviours", {"held_out_rows": 20, "rows": 400}, "991c4948f5df8489"),
    ("few_shot", {"inputs": 3, "labels": 3, "shots": 4, "rows": 200, "id_rows": 50}, "7c730bdb4c98926b"),
    ("reviews", {"clauses": 1, "adjectives": 6, "rows": 200, "id_rows": 60}, "0d1172ca13aab12b"),
    ("rooms_grid", ROOMS, "98554e2ed4cf2b8a"),
    ("rooms_grid", ROOMS | {"zones": True, "grid": 6}, "e8398c4a72b41a7f"),
    ("rooms_grid", ROOMS | {"walls": 2, "new_names": 3, "grid": 6}, "d2483bed998398e5"),
    ("dark_room", DARK, "e3e99bb59dcafc89"),
    ("dark_room", DARK | {"order": "shuffled"}, "611f0c461caaa59b"),
]
IDS = [f"{name}-{i}" for i, (name, _, _) in enumerate(PINNED)]


def corpus_of(name: str, parameters: dict[str, Any]) -> Corpus:
    kind: Any = load("corpora", name, "corpus")
    return kind(**parameters)


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
