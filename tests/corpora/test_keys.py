"""Each key of a corpus turned alone: it changes what is trained or held out, or it is refused."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.fields import parameters_of
from pipeline.config.registry import load, names
from pipeline.corpora.base import Corpus
from tests.turned import turned

KEYS = [
    (name, field.name)
    for name in names("corpora")
    for field in parameters_of(load("corpora", name, "test"))
    if field.name != "path"  # which says where rows come from
    and (name, field.name)
    not in (("triples", "several_tails"), ("triples", "invented"))  # of other files: test_triples
]


def content(corpus: Corpus) -> str:
    """A hash of the words and of all rows."""
    digest = hashlib.sha256(repr(corpus.vocabulary()).encode())
    for split, parts in corpus.splits().items():
        digest.update(split.encode())
        for part in parts:
            digest.update(part.prompts.tobytes() + part.answers.tobytes())
    return digest.hexdigest()


# Keys that say something only where another one is set.
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("composition", "wrong_bridges"): {"bridge": "said"},
    ("composition", "wrong_tails"): {"bridge": "said"},
    ("graph_isomorphism", "min_vertices"): {"max_vertices": 7, "ood_vertices": 8},
    ("graph_isomorphism", "max_vertices"): {"ood_vertices": 8},
    ("responses", "scenario"): {"rows": "pairs"},
    ("toy_programs", "fewest_lines"): {"most_lines": 2},
    ("vector_chain", "limit"): {"fault": "conditional"},
}
# Values of keys that a value near the one there is does not move, or that are words.
VALUES: dict[tuple[str, str], Any] = {
    ("composition", "iid_fraction"): 0.3,
    ("group", "group"): "Z13",
    ("group", "operation"): "-",
    ("group", "template"): "a op b = c",
}
CAPS = {"probe_cap": 2, "hard_per_label": 2}  # less than there are


@pytest.mark.parametrize(("name", "key"), KEYS, ids=map(".".join, KEYS))
def test_each_key_changes_the_rows(name: str, key: str, tmp_path: Path) -> None:
    if name == "reasoning_gym":
        pytest.importorskip("reasoning_gym")
    entry = load("corpora", name, "test").tiny(tmp_path)
    entry = dataclasses.replace(entry, **BESIDE.get((name, key), {}))
    before = content(entry)
    chosen = {**CAPS, **({key: VALUES[name, key]} if (name, key) in VALUES else {})}
    others = [dataclasses.replace(entry, **{key: chosen[key]})] if key in chosen else list(turned(entry, key))
    changed = any(content(other) != before for other in others)
    assert changed, f"{name}.{key} changes no row of the tiny corpus: give it another value in tiny_values"
