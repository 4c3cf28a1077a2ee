"""Prompts of corpora that are more than pairs: chains of steps, sentences of a language, and those with parts."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from pipeline.circuits.base import Pairs
from pipeline.corpora.base import Examples, Ids, Parsed, Stepwise
from pipeline.corpora.store import StoredCorpus
from pipeline.utils.draws import Draws


def stepwise_pairs(corpus: Stepwise, blocks: Sequence[Examples], most: int, seed: int, completions: int) -> Pairs:
    """At most so many chains of a split, as `Source.chains` says."""
    kept = np.sort(Draws(seed, "chains").permutation(sum(map(len, blocks)))[:most])
    bounds = np.cumsum([0, *map(len, blocks)])
    chosen = [block.take(kept[(kept >= low) & (kept < low + len(block))] - low) for block, low in zip(blocks, bounds)]
    chosen = [block for block in chosen if len(block)]
    prefixes = [joined(parts) for parts in zip(*(corpus.prefixes(block) for block in chosen))]
    outcomes = [joined(parts) for parts in zip(*(corpus.outcomes(block) for block in chosen))]
    wrong = np.concatenate([corpus.went_wrong(block) for block in chosen])
    draws = Draws(seed, "completions")
    completed = np.concatenate([corpus.completed(block, completions, draws) for block in chosen])
    width = prefixes[-1].prompts.shape[1]

    def padded(parts: Sequence[Examples]) -> Ids:
        return np.concatenate([np.pad(part.prompts, ((0, 0), (0, width - part.prompts.shape[1]))) for part in parts])

    count = len(wrong)
    return Pairs(
        padded(prefixes), padded(outcomes),
        np.concatenate([part.answers for part in prefixes]), np.concatenate([part.answers for part in outcomes]),
        notes={"yes": np.full(count * len(prefixes), corpus.yes, np.int32)},
        lengths=np.repeat([part.prompts.shape[1] for part in prefixes], count),
        metadata={
            "prefix": np.repeat(np.arange(len(prefixes)), count).tolist(),
            "wrong_step": np.tile(wrong, len(prefixes)).tolist(), "completed": completed.T.ravel().tolist(),
        },
    )  # fmt: skip


def joined(parts: Sequence[Examples]) -> Examples:
    """Examples of one shape below each other."""
    prompts, answers = (np.concatenate([getattr(part, side) for part in parts]) for side in ("prompts", "answers"))
    return Examples(prompts, answers, parts[0].type)


def sentence_pairs(stored: StoredCorpus, sentences: Sequence[Ids]) -> Pairs:
    """All sentences of a language, (n, T) of each length, as `Source.language` says; each beside another one."""
    split = {
        tuple(row): name
        for name in stored.sizes
        for block in stored.blocks(name)
        for row in np.hstack([block.prompts, block.answers]).tolist()
    }
    width = max(block.shape[1] for block in sentences)
    rows = np.concatenate([np.pad(block, ((0, 0), (0, width - block.shape[1]))) for block in sentences])
    return Pairs(
        rows, np.roll(rows, 1, axis=0), rows[:, :1], rows[:, :1],
        lengths=np.repeat([block.shape[1] for block in sentences], [len(block) for block in sentences]),
        metadata={"split": [split.get(tuple(row), "neither") for block in sentences for row in block.tolist()]},
    )  # fmt: skip


def parsed_pairs(stored: StoredCorpus, split: str, most: int, seed: int) -> Pairs | None:
    """At most so many sentences of a split, as `Source.trees` says; None where the corpus has no parts.

    Each stands beside one with another first token.
    """
    corpus: object = stored.corpus
    if not isinstance(corpus, Parsed):
        return None
    blocks = list(stored.blocks(split))
    kept = np.sort(Draws(seed, "trees").permutation(sum(map(len, blocks)))[:most])
    bounds = np.cumsum([0, *map(len, blocks)])
    chosen = [block.take(kept[(kept >= low) & (kept < low + len(block))] - low) for block, low in zip(blocks, bounds)]
    found = [corpus.trees(block) for block in chosen if len(block)]
    width = max(sentences.shape[1] for sentences, _ in found)
    rows = np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1])), "edge") for part, _ in found])
    other = rows.copy()
    other[:, 0] = rows[:, 1]
    lengths = np.concatenate([np.full(len(part), part.shape[1]) for part, _ in found])
    spans = [json.dumps(parts) for _, every in found for parts in every]
    return Pairs(rows, other, rows[:, :1], rows[:, :1], lengths=lengths, metadata={"spans": spans})
