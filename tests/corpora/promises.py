"""The promises of `pipeline.corpora.base`, proved for one corpus, and for random parameters near it."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.fields import parameters_of
from pipeline.corpora.base import PAD, Corpus
from pipeline.corpora.store import StoredCorpus, build
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import fresh_hash


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


def prove_near(tiny: Corpus, drawn: Mapping[str, st.SearchStrategy[Any]] | None = None) -> None:
    """Random small parameters keep the promises or are refused in one line; `drawn` is what to draw of some of them.

    Texts are those of the tiny corpus, and what else is drawn keeps to the bounds that its field states.
    """
    kind = type(tiny)
    types = typing.get_type_hints(kind)
    own = {field.name: getattr(tiny, field.name) for field in parameters_of(kind)}
    # Each is that of the tiny corpus or another: with all of them random, few go together.
    near = {
        field.name: st.just(own[field.name]) | values(types[field.name], field, own[field.name])
        for field in parameters_of(kind)
    }
    outcomes = {"built": 0, "refused": 0}

    @settings(max_examples=150, deadline=None, database=None, derandomize=True)
    @given(parameters=st.fixed_dictionaries({**near, **(drawn or {})}))
    def check(parameters: dict[str, Any]) -> None:
        try:
            stored = build(kind(**parameters))
        except ParameterError as error:
            outcomes["refused"] += 1
            assert error.key in parameters
            assert "\n" not in str(error) and len(str(error)) < 200
            return
        outcomes["built"] += 1
        prove(stored)
        assert fresh_hash(kind(**parameters)) == stored.content_hash

    check()
    texts = all(types[field.name] is str for field in parameters_of(kind))  # there is one corpus to draw
    assert outcomes["built"] >= (1 if texts else 10), outcomes


def values(kind: Any, field: dataclasses.Field[Any], tiny: Any) -> st.SearchStrategy[Any]:
    options, bounds = typing.get_args(kind) or (kind,), field.metadata
    least = bounds.get("ge", bounds.get("gt", 0))
    if typing.get_origin(kind) is tuple:
        return st.just(tiny)
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(options)
    if typing.get_origin(kind) is tuple:
        return st.just(tiny)
    if bool in options:
        return st.booleans()
    if int in options:
        numbers = st.integers(least + ("gt" in bounds), max(least + 1, 30))
        return st.none() | st.none() | numbers if type(None) in options else numbers
    if float in options:
        most = bounds.get("le", bounds.get("lt", 3.0))
        return st.floats(least, most, exclude_min="gt" in bounds, exclude_max="lt" in bounds)
    return st.just(tiny)
