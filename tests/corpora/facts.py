"""Stored corpora as plain Python, so that tests can work out again what numpy worked out."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.corpora.base import Corpus
from pipeline.corpora.store import StoredCorpus, build


class Fact(NamedTuple):
    prompt: tuple[str, ...]
    answer: tuple[str, ...]
    type: str
    notes: dict[str, str | None]


def facts(stored: StoredCorpus, split: str) -> list[Fact]:
    """The examples of a split, as tokens."""
    found = []
    for block in stored.blocks(split):
        for i, (prompt, answer) in enumerate(zip(block.prompts.tolist(), block.answers.tolist())):
            notes = {name: None if note[i] < 0 else stored.tokens[note[i]] for name, note in block.notes.items()}
            words = (tuple(stored.tokens[token] for token in part) for part in (prompt, answer))
            found.append(Fact(*words, block.type, notes))
    return found


@contextlib.contextmanager
def empty_cache() -> Iterator[None]:
    """A cache that holds nothing, for as long as the block lasts."""
    before = os.environ["GROKLAB_CACHE"]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GROKLAB_CACHE"] = folder
        try:
            yield
        finally:
            os.environ["GROKLAB_CACHE"] = before


def fresh_hash(corpus: Corpus) -> str:
    """The content hash of a corpus that is generated anew."""
    with empty_cache():
        return build(corpus).content_hash
