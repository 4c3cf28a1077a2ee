"""Successor scores of a head whose weights are set by hand, and of a model against its own modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.circuits._file_pairs import FilePairs
from pipeline.circuits._pairs import CorpusPairs
from pipeline.circuits.base import Pairs
from pipeline.circuits.successor import Successor
from pipeline.corpora.composition import Composition
from pipeline.corpora.ordinals import Ordinals
from pipeline.corpora.store import build
from pipeline.models.gpt2_bare import Gpt2Bare
from pipeline.utils.errors import MismatchError, ParameterError
from tests.circuits.small import KINDS, VOCABULARY, random_model, random_pairs


def scores_of(table: Any) -> dict[tuple[int, int, str], float]:
    return {(row["layer"], row["head"], row["set"]): row["score"] for row in table.to_pylist()}


def test_a_head_that_steps_through_a_set_is_found() -> None:
    """Tokens are unit vectors, the MLP lets them pass, and one head's OV moves weekdays by one day."""
    stored = build(Ordinals(sets=("days", "ordinals"), rows=100, held_out_rows=10))
    pairs = Successor().choose(CorpusPairs(stored))
    width = 24
    model: Any = Gpt2Bare(n_layer=2, n_embd=width, n_head=2, n_inner=width).build(width)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.transformer.wte.weight.copy_(torch.eye(width))
        model.lm_head.weight.copy_(torch.eye(width))
        model.transformer.h[0].mlp.c_fc.weight.copy_(torch.eye(width))
        model.transformer.h[0].mlp.c_proj.weight.copy_(torch.eye(width))
        attention = model.transformer.h[1].attn
        for day in range(7):  # head 1 of the second layer, whose values are the last 12 of all
            attention.c_attn.weight[day, 2 * width + 12 + day] = 1
            attention.c_proj.weight[12 + day, (day + 1) % 7] = 1
    found = scores_of(Successor().run(model, pairs))
    assert found[1, 1, "days"] == 1
    # Logits that are all 0 rank the first of a set, which follows one day of seven and no ordinal.
    assert found[1, 1, "ordinals"] == 0 and found[1, 1, "all"] == pytest.approx(7 / 16)
    assert found[1, 0, "days"] == pytest.approx(1 / 7) and found[0, 1, "ordinals"] == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("embedding", [False, True])
def test_the_path_of_a_head_is_that_of_the_model_s_modules(kind: str, embedding: bool) -> None:
    """Each head is asked for its own choice on an eighth of the tokens, so that none has a score of 0."""
    model = random_model(kind)
    base = model.base_model
    gpt2 = hasattr(base, "h")
    blocks = list(base.h if gpt2 else base.layers)
    norm = base.ln_f if gpt2 else base.final_layer_norm
    choices = {}
    with torch.no_grad():
        embedded = model.get_input_embeddings()(torch.arange(VOCABULARY))
        first = blocks[0]
        stream = first.mlp((first.ln_2 if gpt2 else first.post_attention_layernorm)(embedded))
        stream = stream + embedded if embedding else stream
        for layer, block in enumerate(blocks):
            x = (block.ln_1 if gpt2 else block.input_layernorm)(stream)
            for head in range(4):
                if gpt2:
                    value = x @ block.attn.c_attn.weight[:, 64 + 8 * head : 72 + 8 * head]
                    out = value @ block.attn.c_proj.weight[8 * head : 8 * head + 8]
                else:
                    value = x @ block.attention.query_key_value.weight[24 * head + 16 : 24 * head + 24].T
                    out = value @ block.attention.dense.weight[:, 8 * head : 8 * head + 8].T
                normed = norm(1e3 * out) - norm.bias if hasattr(norm, "bias") else out  # large, so that eps is nothing
                choices[layer, head] = (normed @ model.get_output_embeddings().weight.T).argmax(-1).numpy()
    tokens, heads = np.arange(VOCABULARY, dtype=np.int32)[:, None], list(choices)
    answers = np.array([choices[heads[i % len(heads)]][i] for i in range(VOCABULARY)], np.int32)[:, None]
    pairs = Pairs(tokens, np.roll(tokens, 1, axis=0), answers, np.roll(answers, 1, axis=0))
    found = scores_of(Successor(embedding=embedding).run(model, pairs))
    for head, chosen in choices.items():
        expected = (chosen == answers[:, 0]).mean()
        assert found[(*head, "all")] == pytest.approx(expected) and expected >= 1 / 8


def test_pairs_of_a_file_name_their_sets(tmp_path: Path) -> None:
    rows = [
        {
            "clean": [i],
            "corrupted": [i + 1],
            "answer": [i + 1],
            "corrupted_answer": [i + 2],
            "set": ["low", "high"][i // 4],
        }
        for i in range(8)
    ]
    path = tmp_path / "sets.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    pairs = Successor().choose(FilePairs(path, None))
    assert pairs.answers[:, 0].tolist() == list(range(1, 9)) and pairs.metadata["set"] == ["low"] * 4 + ["high"] * 4
    found = Successor().run(random_model("gpt2"), pairs).to_pylist()
    low = next(row for row in found if row["set"] == "low")
    assert low["pairs"] == 4 and low["chance"] == pytest.approx(1 / 5)


def test_what_has_no_ordered_sets_is_refused() -> None:
    with pytest.raises(ParameterError, match="corpus: has no ordered sets"):
        Successor().choose(CorpusPairs(build(Composition.tiny())))
    with pytest.raises(MismatchError, match="looks at single tokens, and the prompts have 7"):
        Successor().run(random_model("gpt2"), random_pairs())
