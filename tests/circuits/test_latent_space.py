"""Boxes against a division of the cube by hand; volumes against plain transformers; shares by counting."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.circuits._pairs import CorpusPairs
from pipeline.circuits.hooks import Hooks
from pipeline.circuits.latent_space import SAMPLED, SOBOL, WHOLE, Coder, LatentSpace
from pipeline.corpora.composition import Composition
from pipeline.corpora.grammar import Grammar
from pipeline.corpora.store import StoredCorpus, build
from pipeline.models.gpt2 import Gpt2
from pipeline.utils.errors import MismatchError, ParameterError
from tests.circuits.small import random_model, random_pairs


@pytest.fixture(scope="module")
def stored() -> StoredCorpus:
    return build(Grammar(things=2, colours=1, prepositions=1, train_size=15, test_size=8))


@pytest.fixture(scope="module")
def model(stored: StoredCorpus) -> Any:
    """One that knows the language a little."""
    torch.manual_seed(0)
    model = Gpt2(n_layer=1, n_embd=32, n_head=2, n_positions=16).build(len(stored.tokens))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    corpus: Any = stored.corpus
    for _ in range(40):
        for block in corpus.sentences():
            tokens = torch.from_numpy(block).long()
            model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def probabilities(model: Any, prefix: list[int]) -> list[float]:
    with torch.no_grad():
        return model(torch.tensor([prefix])).logits[0, -1].double().softmax(-1).tolist()


@pytest.mark.parametrize("dimensions", [1, 3, 20])
def test_a_point_of_a_sentence_s_box_stands_for_it(dimensions: int, model: Any, stored: StoredCorpus) -> None:
    corpus: Any = stored.corpus
    sentences = [tuple(row) for block in corpus.sentences() for row in block[:3].tolist()]
    longest = max(map(len, sentences))
    coder = Coder(Hooks(model), 0, 1, longest, dimensions)
    points = coder.encode(sentences)
    assert coder.decode(points) == sentences
    for sentence, point in zip(sentences[:4], points):
        # The division by hand: the cube is cut along one axis after the other.
        low, high = [Fraction(0)] * dimensions, [Fraction(1)] * dimensions
        for place, token in enumerate(sentence[1:]):
            axis = place % dimensions
            chances = [1 + int(chance * WHOLE) for chance in probabilities(model, list(sentence[: place + 1]))]
            width = high[axis] - low[axis]
            low[axis], high[axis] = (
                low[axis] + width * Fraction(sum(chances[:end]), sum(chances)) for end in (token, token + 1)
            )
        for axis in range(dimensions):
            assert abs(point[axis] - (low[axis] + high[axis]) / 2) < 1e-5 * (high[axis] - low[axis])
            edges = [list(point), list(point)]
            wide = high[axis] - low[axis]
            edges[0][axis], edges[1][axis] = low[axis] + wide / 1000, high[axis] - wide / 1000
            assert coder.decode(edges) == [sentence] * 2
            if wide == 1:
                continue  # the sentence is too short to cut this axis
            outside = list(point)
            outside[axis] = low[axis] - wide / 1000 if low[axis] > 0 else high[axis] + wide / 1000
            assert coder.decode([outside]) != [sentence]


def test_volumes_are_probabilities_and_shares_are_counts(model: Any, stored: StoredCorpus) -> None:
    analysis = LatentSpace(points=64)
    pairs = analysis.choose(CorpusPairs(stored))
    table = analysis.run(model, pairs)
    found = {(row["measure"], row["of"]): row["value"] for row in table.to_pylist()}
    trained = {tuple(row) for block in stored.blocks("train")
               for row in np.hstack([block.prompts, block.answers]).tolist()}  # fmt: skip
    held_out = {tuple(row) for block in stored.blocks("id")
                for row in np.hstack([block.prompts, block.answers]).tolist()}  # fmt: skip
    corpus: Any = stored.corpus
    every = {tuple(row) for block in corpus.sentences() for row in block.tolist()}
    volume = {"train": 0.0, "id": 0.0, "neither": 0.0}
    for sentence in every:
        split = "train" if sentence in trained else "id" if sentence in held_out else "neither"
        chance = 1.0
        for place, token in enumerate(sentence[1:]):
            chance *= probabilities(model, list(sentence[: place + 1]))[token]
        volume[split] += chance
    for split, expected in volume.items():
        assert found["volume", split] == pytest.approx(expected, rel=1e-4)
    assert found["volume", "no sentence"] == pytest.approx(1 - sum(volume.values()), abs=1e-6)
    assert found["reconstruction", "id"] == 1
    # Of so many points as many are sentences as the volume says, but for chance.
    for way in (SOBOL, SAMPLED):
        assert found["valid", way] == pytest.approx(sum(volume.values()), abs=0.2)
        assert found["unique", way] <= found["valid", way]
        came = sum(found[f"coverage of {split}", way] * size for split, size in
                   {"train": 15, "id": 8, "neither": len(every) - 23}.items())  # fmt: skip
        assert came == pytest.approx(64 * found["unique", way])


def test_evenly_spread_points_fill_boxes_by_their_volume(model: Any, stored: StoredCorpus) -> None:
    """First words of the points of a line: the share of each is its probability, to one point of all."""
    coder = Coder(Hooks(model), 0, 1, 1, 1)
    count = 500
    found = coder.decode([[Fraction(2 * number + 1, 2 * count)] for number in range(count)])
    shares = np.bincount([sentence[1] for sentence in found], minlength=len(stored.tokens)) / count
    np.testing.assert_allclose(shares, probabilities(model, [0]), atol=1 / count + 1e-9)


def test_what_is_no_language_is_refused() -> None:
    with pytest.raises(ParameterError, match="corpus: is no language with sentences that are all known"):
        LatentSpace().choose(CorpusPairs(build(Composition.tiny())))
    with pytest.raises(MismatchError, match="looks at all sentences of a language, and the prompts are none"):
        LatentSpace().run(random_model("gpt2"), random_pairs())
