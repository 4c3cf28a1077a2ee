"""What results can be grouped by: a word for each row of a split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.corpora.base import Examples
from pipeline.corpora.store import StoredCorpus
from pipeline.runs.grokking import PROBE
from pipeline.utils.errors import RecipeError
from pipeline.utils.seeds import sample
from pipeline.utils.suggest import did_you_mean

RELATION = re.compile(r"r\d*")  # the places of relations in a prompt
Words = npt.NDArray[np.object_]


def facets_of(stored: StoredCorpus, splits: Sequence[str], names: Sequence[str]) -> dict[str, list[Words]]:
    """For each split, one array for each name: a word for each row (n,), None where a row has none.

    `type`, `length` and `answer_length` in words of the corpus, what stands at a place of the prompt such as `h` or
    `r1`, what the corpus notes such as `bridge`; where prompts name relations, their number as `hops`, and the last
    one, which leads to the answer, as `relation`.

    Raises:
        RecipeError: when no row has such a thing.
    """
    known, missing = dict.fromkeys(("type", "length", "answer_length")), set(names)
    found: dict[str, list[Words]] = {}
    for split in splits:
        parts: dict[str, list[Words]] = {name: [] for name in names}
        for block in stored.blocks(split):
            columns = _columns(stored, block)
            known.update(dict.fromkeys(columns))
            missing -= columns.keys()
            for name in names:
                parts[name].append(columns.get(name, np.full(len(block), None)))
        found[split] = [np.concatenate(parts[name]) for name in names]
    if missing:
        name = min(missing)
        raise RecipeError("--by", f"the rows of {', '.join(splits)} have no {name}{did_you_mean(name, known)}")
    return found


def probed(stored: StoredCorpus, split: str, words: Words) -> Words:
    """The words of the rows that a run measures of a split: of `train`, a probe of them."""
    drawn = sample(stored.sizes[split], PROBE, split, "probe") if split == "train" else None
    return words if drawn is None else words[drawn]


def order(word: str | None) -> tuple[Any, ...]:
    """Numbers by their value, then words; a row without any last."""
    if word is None:
        return (2, 0, "")
    return (0, int(word), "") if word.isascii() and word.isdigit() else (1, 0, word)


def _columns(stored: StoredCorpus, block: Examples) -> dict[str, Words]:
    tokens, width = np.array([*stored.tokens, None], dtype=object), block.prompts.shape[1]
    constants = {"type": block.type, "length": str(width), "answer_length": str(block.answers.shape[1])}
    columns = {name: np.full(len(block), word, dtype=object) for name, word in constants.items()}
    places = stored.corpus.places(width)
    if places != [str(position) for position in range(width)]:
        columns |= {place: tokens[block.prompts[:, i]] for i, place in enumerate(places)}
    columns |= {name: tokens[note] for name, note in block.notes.items()}  # -1, for none, is the last
    if relations := [i for i, place in enumerate(places) if RELATION.fullmatch(place)]:
        columns["hops"] = np.full(len(block), str(len(relations)), dtype=object)
        columns["relation"] = tokens[block.prompts[:, relations[-1]]]
    return columns
