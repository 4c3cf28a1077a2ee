"""What a corpus asks of a model beside the answers of its rows, in the tokens of the model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.config.recipe import Recipe
from pipeline.corpora.base import Choosing, Conceptual
from pipeline.corpora.store import build
from pipeline.data.rows import from_blocks
from pipeline.utils.seeds import sample


class Concepts(NamedTuple):
    """Two concepts: their names, where prompts say them, prompts (n, P) for each combination of their values, and the
    tokens of a drawing that show the value 0, and the value 1, of each."""

    names: tuple[str, str]
    places: tuple[int, int]
    prompts: Mapping[tuple[int, int], torch.Tensor]
    tokens: Sequence[tuple[torch.Tensor, torch.Tensor]]


class Choice(NamedTuple):
    """Rows (N, T), where in them a word is asked for (N, T), and the words among which it is, (K,)."""

    tokens: torch.Tensor
    places: torch.Tensor
    among: torch.Tensor


def concepts_of(recipe: Recipe, device: Any) -> Concepts | None:
    """The concepts of a recipe's corpus; None where it has none."""
    corpus: Any = recipe.corpus
    if not isinstance(corpus, Conceptual):
        return None
    ids = torch.as_tensor(recipe.model.token_ids(build(recipe.corpus))).to(device)
    every = [(colour, size) for colour in (0, 1) for size in (0, 1)]
    prompts = {values: ids[torch.from_numpy(corpus.prompts(values)).long().to(device)] for values in every}
    tokens = [(ids[list(low)], ids[list(high)]) for low, high in corpus.concept_tokens]
    return Concepts(corpus.concepts, corpus.concept_places, prompts, tokens)


def choices_of(recipe: Recipe, split: str, most: int, device: Any) -> dict[str, Choice]:
    """What is asked for in a split, by name, in at most so many rows of those that ask for it; the same ones always."""
    corpus: Any = recipe.corpus
    if not isinstance(corpus, Choosing):
        return {}
    stored = build(recipe.corpus)
    ids = torch.as_tensor(recipe.model.token_ids(stored))
    blocks: dict[str, list[Any]] = defaultdict(list)
    among: dict[str, Sequence[int]] = {}
    for block in stored.blocks(split):
        for name, (place, words) in corpus.choices(block).items():
            if len(having := np.flatnonzero(place.any(axis=1))):
                blocks[name].append((block.take(having), place[having]))
                among[name] = words
    found = {}
    for name, parts in blocks.items():
        rows = from_blocks([block for block, _ in parts], stored.tokens.index("<pad>"))
        width = rows.tokens_NT.shape[1]
        places = np.concatenate([np.pad(place, ((0, 0), (0, width - place.shape[1]))) for _, place in parts])
        drawn = sample(len(rows), most, split, f"choice {name}")
        kept = np.arange(len(rows)) if drawn is None else drawn
        parts_of = (ids[rows.tokens_NT[kept]], torch.from_numpy(places[kept]), ids[list(among[name])])
        found[name] = Choice(*(part.to(device) for part in parts_of))
    return found
