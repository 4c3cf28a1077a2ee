"""How many tokens heads attend to, against transformers' own attention, and the bound that a softmax sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.circuits._pairs import CorpusPairs, Renamed
from pipeline.circuits.attention_density import ALL, AttentionDensity, correlation
from pipeline.circuits.base import Pairs
from pipeline.corpora.few_shot import FewShot
from pipeline.corpora.store import build
from pipeline.plots.attention_density import over_shots
from pipeline.utils.errors import ParameterError
from tests.circuits.small import random_model, random_pairs, tokens_of

THRESHOLD = 0.1


def attention_of(model: Any, tokens: Any) -> tuple[Any, Any]:
    """Patterns (n, L, H, T, T) and logits (n, T, V), as transformers gives them."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(tokens_of(tokens), output_attentions=True)
    return np.stack([pattern.numpy() for pattern in output.attentions], axis=1), output.logits.numpy()


@pytest.mark.parametrize("kind", ["gpt2", "neox-parallel"])
def test_tokens_are_counted_as_in_the_model_s_own_attention(kind: str) -> None:
    model, plain = random_model(kind), random_pairs(n=40)
    places = ["x", "y", "x", "y", "x", "y", "x"]
    pairs = Pairs(plain.clean, plain.corrupted, plain.answers, plain.corrupted_answers, places=places)
    rows = AttentionDensity().run(model, pairs).to_pylist()
    pattern, logits = attention_of(model, pairs.clean)
    counts = (pattern > THRESHOLD).sum(-1)  # (n, L, H, T)
    following = np.hstack([pairs.clean[:, 1:], pairs.answers])
    right = logits.argmax(-1) == following
    seen = set()
    for row in rows:
        layer, head, at = row["layer"], row["head"], row["position"]
        assert row["place"] == places[at] and row["shot"] == at // 2
        if row["context"] != "prompts":
            continue
        seen.add(row["measure"])
        if row["measure"] == "right":
            assert row["value"] == pytest.approx(right[:, at].mean())
            continue
        chosen = counts[:, layer, :, at].sum(1) if head == ALL else counts[:, layer, head, at]
        if row["measure"] == "density":
            assert row["value"] == pytest.approx(chosen.mean())
        elif row["measure"] == "most":
            assert row["value"] == chosen.max() <= 9  # ten tokens above a tenth would add up to more than 1
        elif row["value"] is not None:
            ones = chosen[right[:, at]].mean() - chosen[~right[:, at]].mean()
            assert np.sign(row["value"]) == np.sign(ones) and abs(row["value"]) <= 1
    assert seen == {"density", "most", "right", "relation"}
    behind = [row for row in rows if row["context"] == "random tokens"]
    assert {row["position"] for row in behind} == {6} and len(behind) == 2 * 5


def test_attention_that_is_spread_counts_until_it_is_thinner_than_the_threshold() -> None:
    """With queries and keys of zero each of i + 1 tokens gets 1 / (i + 1): all of them above 0.1 up to the ninth."""
    model, pairs = random_model("bare", n_positions=14), random_pairs(n=6, length=13)
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.weight[:, :64] = 0
            if block.attn.c_attn.bias is not None:
                block.attn.c_attn.bias[:64] = 0
    rows = AttentionDensity().run(model, pairs).to_pylist()
    here = {"measure": "density", "layer": 1, "head": 0, "context": "prompts"}
    found = {row["position"]: row["value"] for row in rows if here.items() <= row.items()}
    assert found == {at: at + 1 if at < 9 else 0 for at in range(13)}
    wide = AttentionDensity(threshold=0.05).run(model, pairs).to_pylist()
    assert max(row["value"] for row in wide if row["measure"] == "most") == 13


def test_correlation_is_that_of_the_definition() -> None:
    counts, right = np.array([1, 2, 3, 5]), np.array([False, False, True, True])
    spread = (counts - counts.mean()) / counts.std()
    assert correlation(counts, right) == pytest.approx((spread * (right - 0.5)).mean() / 0.5)
    assert np.isnan(correlation(np.ones(4, np.int64), right)) and np.isnan(correlation(counts, right | True))


def test_examples_of_a_corpus_are_numbered(tmp_path: Any) -> None:
    stored = build(FewShot.tiny())
    source = CorpusPairs(stored)
    pairs = source.prompts("id", 20, 0)
    assert len(pairs) == 20 and pairs.places == ["input", "label"] * 4 + ["input"]
    assert len({tuple(row) for row in pairs.clean.tolist()}) == 20
    again = Renamed(source, [i + 1 for i in range(len(stored.tokens))]).prompts("id", 20, 0)
    assert (again.clean == pairs.clean + 1).all()
    table = AttentionDensity(pairs=20).run(random_model("gpt2", n_positions=16), pairs)
    assert list(over_shots(table, "density", 0).steps) == [0, 1, 2, 3, 4]
    with pytest.raises(ParameterError, match="pairs: 1 prompts of id, and 2 are needed"):
        source.prompts("id", 1, 0)
