"""Corrupted prompts: found by brute force once more, drawn evenly, and clear errors where there are none."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.circuits._counterfactuals import Neighbours
from pipeline.corpora.base import Corpus, Examples
from pipeline.corpora.comparison import Comparison
from pipeline.corpora.composition import Composition
from pipeline.corpora.group import Group
from pipeline.corpora.store import StoredCorpus, build
from pipeline.utils.draws import Draws

CORPORA: list[Corpus] = [
    Composition(num_entities=40, num_relations=6, out_degree=4, ratio=2, ood_fraction=0.2, seed=3),
    Composition(num_entities=36, num_relations=6, out_degree=4, ratio=2, ood_fraction=0.2, token_multiplicity=6),
    Comparison(num_entities=16, num_attributes=2, num_values=4, ood_fraction=0.25, ratio=4.0),
    Group(group="Z7", label_noise=0.2),
]
Row = tuple[int, ...]


def known(stored: StoredCorpus) -> dict[Row, Row]:
    """Prompt -> answer, over all splits."""
    found = {}
    for split in stored.sizes:
        for block in stored.blocks(split):
            found |= dict(zip(map(tuple, block.prompts.tolist()), map(tuple, block.answers.tolist())))
    return found


def candidates(prompts: dict[Row, Row], prompt: Row, position: int | None) -> set[Row]:
    """What may take the prompt's place, by comparing it with every other one."""
    found = set()
    for other, answer in prompts.items():
        if len(other) == len(prompt) and len(answer) == len(prompts[prompt]) and answer != prompts[prompt]:
            differs = [i for i, (ours, theirs) in enumerate(zip(prompt, other)) if ours != theirs]
            if len(differs) == 1 and position in (None, differs[0]):
                found.add(other)
    return found


@pytest.mark.parametrize("corpus", CORPORA, ids=["composition", "two-token", "comparison", "group"])
def test_neighbours_are_those_of_a_search_through_all_prompts(corpus: Corpus) -> None:
    stored = build(corpus)
    prompts, neighbours = known(stored), Neighbours(stored)
    draws = Draws(0, "test")
    for split in stored.sizes:
        for block in stored.blocks(split):
            examples = block.take(slice(0, 12))
            rows = list(map(tuple, examples.prompts.tolist()))
            for position in (None, *range(examples.prompts.shape[1])):
                expected = [candidates(prompts, row, position) for row in rows]
                count = neighbours.count(examples, position)
                assert count.tolist() == list(map(len, expected))
                corrupted = neighbours.corrupt(examples.take(count > 0), draws, position)
                found = list(map(tuple, corrupted.prompts.tolist()))
                assert all(prompt in options for prompt, options in zip(found, filter(None, expected)))
                assert [tuple(answer) for answer in corrupted.answers.tolist()] == [prompts[row] for row in found]
                clean = examples.prompts[count > 0]
                assert ((clean != corrupted.prompts).argmax(axis=1) == corrupted.notes["position"]).all()


def test_every_candidate_is_drawn_as_often() -> None:
    stored = build(CORPORA[0])
    prompts = known(stored)
    block = next(block for block in stored.blocks("id"))
    row = tuple(block.prompts[0].tolist())
    options = candidates(prompts, row, None)
    many = block.take(np.zeros(4000, np.int64))
    drawn = Counter(map(tuple, Neighbours(stored).corrupt(many, Draws(1, "test")).prompts.tolist()))
    expected = 4000 / len(options)
    assert drawn.keys() == options and len(options) > 5
    assert all(abs(count - expected) < 5 * expected**0.5 for count in drawn.values())


def test_the_same_generator_draws_the_same() -> None:
    stored = build(CORPORA[0])
    block = next(stored.blocks("ood"))
    first, second, third = (Neighbours(stored).corrupt(block, Draws(seed, "test")) for seed in (5, 5, 6))
    assert (first.prompts == second.prompts).all() and (first.prompts != third.prompts).any()


def test_where_there_is_none_the_prompt_is_named() -> None:
    stored = build(Group(group="Z5"))
    block = next(stored.blocks("id")).take(slice(0, 3))
    neighbours = Neighbours(stored)
    assert (neighbours.count(block, 1) == 0).all()  # the operation is the same everywhere
    text = " ".join(stored.tokens[token] for token in block.prompts[0])
    with pytest.raises(
        LookupError, match=r"no prompt differs from .* in one token, the one at 1, and has another"
    ) as error:
        neighbours.corrupt(block, Draws(0, "test"), 1)
    assert text in str(error.value)


def test_prompts_of_another_corpus_are_refused() -> None:
    neighbours = Neighbours(build(Group(group="Z5", template="a b = c")))
    unknown = Examples(np.array([[1, 1, 1]], np.int32), np.array([[1]], np.int32), "+")
    with pytest.raises(LookupError, match="1 1 1 is not a prompt of this corpus"):
        neighbours.corrupt(unknown, Draws(0, "test"))
    longer = Examples(np.array([[1, 1, 1, 5]], np.int32), np.array([[1]], np.int32), "+")
    with pytest.raises(LookupError, match="no prompts of 4 tokens with answers of 1"):
        neighbours.count(longer)
