"""What happens at the first token, against transformers' own attention, and in models whose weights are set by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.circuits._pairs import CorpusPairs, Renamed
from pipeline.circuits.base import Pairs
from pipeline.circuits.hooks import Hooks
from pipeline.circuits.sinks import Sinks
from pipeline.corpora.bigram_backcopy import BigramBackcopy
from pipeline.corpora.group import Group
from pipeline.corpora.store import build
from tests.circuits.small import random_model, random_pairs, tokens_of

Key = tuple[str, str, int, int]


def found_in(table: Any) -> dict[Key, float]:
    return {(row["measure"], row["part"], row["layer"], row["head"]): row["value"] for row in table.to_pylist()}


def marked(n: int = 6, length: int = 7) -> Pairs:
    """Pairs of which every third token is active, of two lengths, with some surprise at each."""
    plain, rng = random_pairs(n, length), np.random.default_rng(1)
    active = (np.arange(n * length).reshape(n, length) % 3 == 0).astype(float)
    values = {"active": active, "surprise": rng.random((n, length))}
    lengths = np.where(np.arange(n) % 2, length, length - 2)
    return Pairs(plain.clean, plain.corrupted, plain.answers, plain.corrupted_answers, lengths=lengths, values=values)


@pytest.mark.parametrize("kind", ["gpt2", "neox-parallel", "relu"])
def test_heads_are_measured_as_from_the_model_s_own_attention(kind: str) -> None:
    model, pairs = random_model(kind), marked()
    found = found_in(Sinks().run(model, pairs))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(tokens_of(pairs.clean), output_attentions=True, output_hidden_states=True)
    seen = [(row, place) for row in range(6) for place in range(1, pairs.lengths[row])]
    parts = {"dormant": [], "active": []}
    for row, place in seen:
        parts["active" if pairs.values["active"][row, place] else "dormant"].append((row, place))
    for layer, pattern in enumerate(output.attentions):
        for head in range(4):
            for part, places in parts.items():
                first = [pattern[row, head, place, 0].item() for row, place in places]
                assert found["attention", part, layer, head] == pytest.approx(np.mean(first), abs=1e-5)
                if kind != "relu":  # the logarithms of a softmax differ as scores do
                    logs = [pattern[row, head, place, : place + 1].log() for row, place in places]
                    above = np.mean([float(log[0] - log[1:].mean()) for log in logs])
                    assert found["sink logit", part, layer, head] == pytest.approx(above, abs=1e-3)
    stream = output.hidden_states[1].norm(dim=-1)
    later = np.mean([stream[row, place].item() for row, place in seen])
    assert found["residual", "", 0, -1] == pytest.approx(stream[:, 0].mean().item() / later, rel=1e-4)
    loss = torch.nn.functional.cross_entropy(
        output.logits.transpose(1, 2),
        tokens_of(np.hstack([pairs.clean[:, 1:], pairs.answers])),
        reduction="none",
    )
    for part, places in parts.items():
        excess = np.mean([loss[row, place].item() - pairs.values["surprise"][row, place] for row, place in places])
        assert found["excess risk", part, -1, -1] == pytest.approx(excess, abs=1e-4)


def test_values_are_the_head_s_own() -> None:
    model, pairs = random_model("gpt2"), random_pairs()
    found = found_in(Sinks().run(model, pairs))
    with torch.no_grad():
        hidden = model.transformer.wte(tokens_of(pairs.clean)) + model.transformer.wpe(torch.arange(7))
        block = model.transformer.h[0]
        value = block.attn.c_attn(block.ln_1(hidden))[..., 64:].unflatten(-1, (4, 8)).norm(dim=-1)
    for head in range(4):
        drain = value[:, 0, head].mean() / value[:, 1:, head].mean()
        assert found["value", "", 0, head] == pytest.approx(drain.item(), rel=1e-4)
    # Pairs of which nothing is known have dormant tokens alone, and no risk.
    assert {(measure, part) for measure, part, *_ in found} == {
        ("attention", "dormant"), ("sink logit", "dormant"), ("value", ""), ("residual", "")
    }  # fmt: skip


def test_a_head_with_a_sink_made_by_hand_is_found() -> None:
    """Its key for the first token alone is large, and its value for it none; the MLP makes the stream peak there."""
    model = random_model("bare", n_layer=1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        body, pairs = model.transformer, random_pairs()
        body.wte.weight[:, 1] = 1.0  # every token
        body.wpe.weight[0, 0] = 1.0  # the first place
        attention = body.h[0].attn.c_attn.weight
        attention[1, 0] = 8**0.5  # queries of head 0
        attention[0, 32] = 5.0  # its key at the first place
        attention[1, 64] = 1.0  # its value of every token,
        attention[0, 64] = -0.9  # but of the first a tenth
        body.h[0].mlp.c_fc.weight[0, 0] = 1.0
        body.h[0].mlp.c_proj.weight[0, 0] = 9.0
    found = found_in(Sinks().run(model, pairs))
    first = np.mean([np.exp(5) / (np.exp(5) + place) for place in range(1, 7)])
    assert found["attention", "dormant", 0, 0] == pytest.approx(first, rel=1e-5)
    assert found["attention", "dormant", 0, 1] == pytest.approx(np.mean(1 / np.arange(2, 8)), rel=1e-5)
    assert found["sink logit", "dormant", 0, 0] == pytest.approx(5, rel=1e-5)
    assert found["sink logit", "dormant", 0, 1] == pytest.approx(0, abs=1e-6)
    assert found["value", "", 0, 0] == pytest.approx(0.1, rel=1e-4)
    assert found["residual", "", 0, -1] == pytest.approx(101**0.5, rel=1e-3)  # (1 + 9, 1) against (0, 1)


def test_prompts_are_taken_with_the_law_of_their_corpus() -> None:
    corpus = BigramBackcopy.tiny()
    stored = build(corpus)
    source = CorpusPairs(stored)
    pairs = Sinks(pairs=20).choose(source)
    assert len(pairs) == 20 and pairs.clean.shape == (20, 8)
    law = corpus.law(np.hstack([pairs.clean, pairs.answers]))
    for name, values in law.items():
        np.testing.assert_array_equal(pairs.values[name], values)
        np.testing.assert_array_equal(pairs.take([3, 1]).values[name], values[[3, 1]])
    ids = np.random.default_rng(0).permutation(len(stored.tokens))
    renamed = Sinks(pairs=20).choose(Renamed(source, ids))
    np.testing.assert_array_equal(renamed.clean, ids[pairs.clean])
    np.testing.assert_array_equal(renamed.values["active"], pairs.values["active"])
    assert not Sinks(pairs=20).choose(CorpusPairs(build(Group.tiny()))).values


def test_attention_without_a_softmax_is_seen_and_replaced_as_it_is() -> None:
    model, pairs = random_model("relu"), random_pairs()
    tokens = tokens_of(pairs.clean)
    point = "blocks.1.attn.hook_pattern"
    with torch.no_grad():
        expected = model(tokens, output_attentions=True)
    logits, found = Hooks(model).read(tokens, [point])
    torch.testing.assert_close(logits, expected.logits)
    torch.testing.assert_close(found[point], expected.attentions[1])
    with Hooks(model).at({point: torch.zeros_like}), torch.no_grad():
        without = model(tokens).logits
    assert not torch.allclose(without, expected.logits)
    torch.testing.assert_close(model(tokens).logits, expected.logits)
