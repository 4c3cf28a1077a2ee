"""Prompts of one length, and those of two classes beside each other, whatever a corpus is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.circuits._source import Pairs
from pipeline.corpora.base import Ids
from pipeline.corpora.store import StoredCorpus
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError
from pipeline.utils.suggest import did_you_mean


def some_prompts(stored: StoredCorpus, split: str, most: int, seed: int) -> Pairs:
    """At most so many prompts with their answers, each beside another one; see `Source.prompts`."""
    prompts, answers = _longest(stored, split)
    rows = Draws(seed, "prompts").permutation(len(prompts))[:most]
    if len(rows) < 2:
        raise ParameterError("pairs", f"{len(rows)} prompts of {split}, and 2 are needed")
    places = stored.corpus.places(prompts.shape[1])
    other = np.roll(rows, 1)
    return Pairs(prompts[rows], prompts[other], answers[rows], answers[other], places=places)


def two_classes(stored: StoredCorpus, split: str, most: int, seed: int, names: Sequence[str] = ()) -> Pairs:
    """At most so many prompts of two classes, in turn; see `Source.classes`."""
    prompts, answers = _longest(stored, split)
    kind = answers[:, int((answers != answers[0]).any(axis=0).argmax())]
    first, second = _kinds(stored, kind, names)
    order = Draws(seed, "classes").permutation(len(kind))
    rows = [order[kind[order] == one] for one in (first, second)]
    count = max(min(len(rows[0]), len(rows[1]), most // 2), 1)
    # In turn, so that each part of them has as many of each class.
    clean, other = (np.stack([side[:count] for side in sides], axis=1).ravel() for sides in (rows, rows[::-1]))
    words = [stored.tokens[token] for token in kind[clean]]
    places = stored.corpus.places(prompts.shape[1])
    return Pairs(
        prompts[clean], prompts[other], answers[clean], answers[other], places=places, metadata={"class": words}
    )


def _longest(stored: StoredCorpus, split: str) -> tuple[Ids, Ids]:
    """Prompts and answers of all blocks of a split that are as long as its longest one."""
    blocks = list(stored.blocks(split))
    largest = max(blocks, key=lambda block: (block.prompts.shape[1], len(block)))
    shape = largest.prompts.shape[1], largest.answers.shape[1]
    same = [block for block in blocks if (block.prompts.shape[1], block.answers.shape[1]) == shape]
    return np.concatenate([block.prompts for block in same]), np.concatenate([block.answers for block in same])


def _kinds(stored: StoredCorpus, kind: Ids, names: Sequence[str]) -> tuple[int, int]:
    """The tokens of two classes: those named, or the two that are most frequent."""
    known, counts = np.unique(kind, return_counts=True)
    if not names:
        if len(known) < 2:
            raise ParameterError("corpus", "has one answer, and two classes are looked for")
        first, second = known[np.argsort(-counts, kind="stable")[:2]].tolist()
        return first, second
    words = {stored.tokens[token]: int(token) for token in known}
    if len(names) != 2 or names[0] == names[1]:
        raise ParameterError("classes", f"{', '.join(names)}: are not two different answers")
    for name in names:
        if name not in words:
            raise ParameterError("classes", f"no answer of these prompts is {name!r}{did_you_mean(name, words)}")
    return words[names[0]], words[names[1]]
