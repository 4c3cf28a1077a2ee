"""Prompts corrupted by the rules of Wang et al. 2024, and what causal tracing reports: by loops and plain hooks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.circuits._pairs import CorpusPairs
from pipeline.circuits.causal_tracing import CausalTracing
from pipeline.corpora.comparison import Comparison
from pipeline.corpora.composition import Composition
from pipeline.corpora.group import Group
from pipeline.corpora.store import StoredCorpus, build
from pipeline.models.gpt2 import Gpt2
from pipeline.utils.draws import Draws

FACTS = Composition(num_entities=30, num_relations=6, out_degree=4, ratio=3, ood_fraction=0.2)
VALUES = Comparison(num_entities=20, num_attributes=3, num_values=5, probe_cap=200)


def known_facts(stored: StoredCorpus) -> dict[tuple[int, int], int]:
    """(head, relation) -> tail of the atomic facts that trained compositions use, by token."""
    rows = next(stored.blocks("id_atomic"))
    return {(h, r): t for (h, r), t in zip(rows.prompts.tolist(), rows.answers[:, 0].tolist())}


def candidates(facts: dict[tuple[int, int], int], prompt: list[int], tail: int, position: int) -> set[int]:
    """The tokens that may stand at a position, by trying each."""
    head, first, second = prompt

    def end(h: int, r1: int, r2: int) -> int | None:
        return facts.get((facts[h, r1], r2)) if (h, r1) in facts else None

    heads, relations = {h for h, _ in facts}, {r for _, r in facts}
    if position == 0:
        return {h for h in heads if end(h, first, second) != tail}
    if position == 1:
        return {r for r in relations if (head, r) in facts and end(head, r, second) != tail}
    bridge = facts[head, first]
    return {r for r in relations if facts.get((bridge, r), tail) != tail}


def test_two_hop_facts_are_corrupted_by_the_paper_s_rule() -> None:
    stored = build(FACTS)
    facts, block = known_facts(stored), next(stored.blocks("train_inferred"))
    seen: dict[int, set[tuple[int, int]]] = {0: set(), 1: set(), 2: set()}
    for position in range(3):
        for seed in range(60):
            corrupted = stored.corpus.corrupt(block, position, Draws(seed, "test"))
            assert corrupted is not None
            prompts, answers, found = corrupted
            for i in np.flatnonzero(found):
                seen[position].add((int(i), int(prompts[i, position])))
                assert (np.delete(prompts[i], position) == np.delete(block.prompts[i], position)).all()
                tail = facts.get((facts.get((prompts[i, 0], prompts[i, 1]), -1), prompts[i, 2]))
                assert answers[i, 0] == (stored.tokens.index("<pad>") if tail is None else tail)
        allowed = [candidates(facts, p, t, position) for p, t in zip(block.prompts.tolist(), block.answers[:, 0])]
        expected = {(i, token) for i, tokens in enumerate(allowed) for token in tokens}
        assert seen[position] <= expected and len(seen[position]) > 0.8 * len(expected)
        assert found.tolist() == [bool(tokens) for tokens in allowed]


def test_compared_entities_get_the_other_s_value() -> None:
    stored, known = build(VALUES), VALUES.knowledge
    block = next(stored.blocks("train_inferred"))
    words = stored.tokens
    for position in (0, 2, 4):
        corrupted = VALUES.corrupt(block, position, Draws(0, "test"))
        assert corrupted is not None
        prompts, answers, found = corrupted
        assert found.any()
        for prompt, clean, answer in zip(prompts[found], block.prompts[found], answers[found]):
            attribute, first, second = (int(words[i].strip("<>").rpartition("_")[2]) for i in prompt[[0, 2, 4]])
            values = known.value[attribute, [first, second]]
            before = known.value[attribute, clean[[2, 4]]]
            assert words[answer[0]] == f"<attr_{attribute}_{1 + np.sign(values[0] - values[1])}>"
            assert [i for i in range(5) if prompt[i] != clean[i]] == [position]
            if position:
                assert (first if position == 2 else second) in known.id[attribute]
                assert abs(values[0] - values[1]) == (before[0] == before[1])
    assert VALUES.corrupt(block, 1, Draws(0, "test")) is None


@pytest.mark.parametrize("corruption", ["any", "corpus"])
@pytest.mark.parametrize("corpus", [FACTS, VALUES, Group(group="Z11", template="a b = c")])
def test_all_positions_have_the_same_prompts(corpus: Any, corruption: Any) -> None:
    stored = build(corpus)
    pairs = CausalTracing(pairs=40, corruption=corruption).choose(CorpusPairs(stored))
    sides = [pairs.clean[pairs.where == position].tolist() for position in sorted(set(pairs.where.tolist()))]
    assert len(sides) >= 2 and all(side == sides[0] for side in sides)
    assert ((pairs.clean != pairs.corrupted).sum(axis=1) == 1).all()
    known = {tuple(row) for split in stored.sizes for block in stored.blocks(split) for row in block.prompts.tolist()}
    inside = sum(tuple(row) in known for row in pairs.corrupted.tolist())
    assert inside == len(pairs) if corruption == "corpus" or isinstance(corpus, Group) else inside < len(pairs)


def test_the_table_is_what_plain_hooks_give() -> None:
    """One prompt, layer and position at a time, with torch's hooks on transformers' own blocks."""
    stored = build(FACTS)
    torch.manual_seed(0)
    model: Any = Gpt2(n_layer=2, n_embd=16, n_head=2, n_positions=4, initializer_range=0.3).build(len(stored.tokens))
    model.eval()
    analysis = CausalTracing(pairs=12)
    pairs = analysis.choose(CorpusPairs(stored))
    clean, corrupted = (torch.from_numpy(side).long() for side in (pairs.clean, pairs.corrupted))
    with torch.no_grad():
        top = model(clean).logits[:, -1].argmax(-1).numpy()
    # Two of three are answered rightly.
    pairs.answers[:, 0] = np.where(clean[:, 0].numpy() % 3 > 0, top, (top + 1) % 30)
    rows = {(row["position"], row["layer"]): row for row in analysis.run(model, pairs).to_pylist()}
    right = pairs.answers[:, 0] == top
    for position in range(3):
        for layer in range(2):
            lost = []
            for i in np.flatnonzero(pairs.where == position):
                states: list[torch.Tensor] = []
                block = model.transformer.h[layer]
                with torch.no_grad():
                    hook = block.register_forward_hook(lambda _, inputs, out, s=states: s.append(out.clone()))
                    model(corrupted[i : i + 1], use_cache=False)
                    hook.remove()

                    def patch(_: Any, inputs: Any, out: torch.Tensor, new: Any = states, at: int = position) -> Any:
                        out = out.clone()
                        out[:, at] = new[0][:, at]
                        return out

                    hook = block.register_forward_hook(patch)
                    found = model(clean[i : i + 1], use_cache=False).logits[0, -1].argmax()
                    lost.append(int(found) != pairs.answers[i, 0])
                    hook.remove()
            here = right[pairs.where == position]
            row = rows[position, layer + 1]  # after so many blocks
            assert row["right"] == pytest.approx(here.mean()) and 0 < here.mean() < 1
            assert row["strength of all"] == pytest.approx(np.mean(lost))
            assert row["strength"] == pytest.approx(np.mean(np.array(lost)[here]))
