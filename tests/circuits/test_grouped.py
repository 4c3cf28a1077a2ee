"""Models of Llama's kind whose heads share keys and values: against plain transformers and a forward written out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GemmaConfig, GemmaForCausalLM

from pipeline.circuits.__main__ import main
from pipeline.circuits._architectures import gain
from pipeline.circuits._batch import on_device
from pipeline.circuits._edge_patching import cut_logits, graph_of, writers
from pipeline.circuits._head_scores import unembedding
from pipeline.circuits.attribution import Attribution
from pipeline.circuits.base import Pairs
from pipeline.circuits.hooks import Hooks
from pipeline.circuits.patching import Patching
from pipeline.circuits.sinks import Sinks
from pipeline.circuits.successor import Successor
from pipeline.config.registry import names
from pipeline.models.families import edges_of
from tests.circuits.grouped import KINDS, WrittenOut, grouped_model, in_doubles
from tests.circuits.small import VOCABULARY, random_pairs, tokens_of

TOKENS = tokens_of(random_pairs().clean)
ATTENTION = ("hook_pattern", "hook_attn_scores")
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_the_forward_that_is_written_out_is_that_of_transformers(kind: str) -> None:
    model = grouped_model(kind)
    assert 1 <= model.config.num_key_value_heads < model.config.num_attention_heads
    torch.testing.assert_close(WrittenOut(model, TOKENS).logits, model(TOKENS).logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@kinds
def test_reading_changes_nothing(kind: str, attention: str) -> None:
    model = grouped_model(kind)
    model.set_attn_implementation(attention)
    hooks, plain = Hooks(model), model(TOKENS).logits
    logits, _ = hooks.read(TOKENS, [name for name in hooks.points if not name.endswith(ATTENTION)])
    assert logits.equal(plain)
    logits, found = hooks.read(TOKENS, hooks.points)
    assert found.keys() == hooks.points.keys() and "blocks.0.attn.hook_qkv" not in found
    torch.testing.assert_close(logits, plain, atol=2e-5, rtol=1e-4)
    assert model(TOKENS).logits.equal(plain) and model.config._attn_implementation == attention


@kinds
def test_values_are_what_their_names_say(kind: str) -> None:
    model = grouped_model(kind)
    hooks = Hooks(model)
    logits, found = hooks.read(TOKENS, hooks.points)
    outputs = model(TOKENS, output_hidden_states=True, output_attentions=True)
    written, groups, width = WrittenOut(model, TOKENS).written, model.config.num_key_value_heads, hooks.d_head
    close: dict[str, Any] = {"atol": 2e-5, "rtol": 1e-4}
    for layer in range(hooks.n_layer):
        at, block = f"blocks.{layer}.", model.model.layers[layer]
        torch.testing.assert_close(found[f"{at}hook_resid_pre"], outputs.hidden_states[layer], **close)
        torch.testing.assert_close(found[f"{at}attn.hook_pattern"], outputs.attentions[layer], **close)
        heads = torch.stack([written[f"a{layer}.h{head}"] for head in range(4)], 2)
        torch.testing.assert_close(found[f"{at}attn.hook_result"], heads, **close)
        torch.testing.assert_close(heads.sum(2), found[f"{at}hook_attn_out"], **close)
        torch.testing.assert_close(written[f"m{layer}"], found[f"{at}hook_mlp_out"], **close)
        normed = found[f"{at}ln1.hook_normalized"]
        projected = torch.einsum("btd,shed->sbthe", normed, hooks.in_weight(layer))
        bias = hooks.in_bias(layer)
        assert (bias is None) == (kind != "qwen2")
        for number, (part, count) in enumerate({"q": 4, "k": groups, "v": groups}.items()):
            value = getattr(block.self_attn, f"{part}_proj")(normed).unflatten(-1, (count, width))
            assert found[f"{at}attn.hook_{part}"].equal(value)
            ours = projected[number] if bias is None else projected[number] + bias[number]
            torch.testing.assert_close(ours, value.repeat_interleave(4 // count, 2), **close)
        neurons = torch.nn.functional.silu(found[f"{at}mlp.hook_pre"]) * found[f"{at}mlp.hook_pre_linear"]
        torch.testing.assert_close(neurons, found[f"{at}mlp.hook_post"], **close)
    torch.testing.assert_close(model.lm_head(found["ln_final.hook_normalized"]), logits, **close)


@kinds
def test_every_point_can_be_replaced_as_torch_hooks_do(kind: str) -> None:
    model = grouped_model(kind)
    hooks, plain = Hooks(model), model(TOKENS).logits
    for name in hooks.points:
        with hooks.at({name: torch.clone}):
            torch.testing.assert_close(model(TOKENS).logits, plain, atol=3e-5, rtol=1e-4)
        with hooks.at({name: lambda value: value.roll(1, 0)}):
            assert not torch.allclose(model(TOKENS).logits, plain, atol=1e-3), name
    module = model.model.layers[1].self_attn.v_proj
    handle = module.register_forward_hook(
        lambda *given: given[2].unflatten(-1, (-1, hooks.d_head)).roll(1, 0).flatten(-2)
    )
    expected = model(TOKENS).logits
    handle.remove()
    with hooks.at({"blocks.1.attn.hook_v": lambda value: value.roll(1, 0)}):
        assert model(TOKENS).logits.equal(expected)
    assert model(TOKENS).logits.equal(plain)


@kinds
def test_a_copy_without_groups_computes_the_same(kind: str) -> None:
    model = grouped_model(kind)
    before = {name: (weight, weight.clone()) for name, weight in model.named_parameters()}
    hooks, plain = Hooks(model), model(TOKENS).logits
    alone = hooks.ungrouped()
    assert alone.n_group == 4 > hooks.n_group == model.config.num_key_value_heads and alone.ungrouped() is alone
    for attention in ("sdpa", "eager"):
        alone.model.set_attn_implementation(attention)
        torch.testing.assert_close(alone.run(TOKENS), plain, atol=2e-5, rtol=1e-4)
    _, found = alone.read(TOKENS, ["blocks.0.attn.hook_k"])
    assert found["blocks.0.attn.hook_k"].shape[2] == 4
    assert alone.head.weight is hooks.head.weight
    after = dict(model.named_parameters())
    assert all(after[name] is weight and weight.equal(value) for name, (weight, value) in before.items())


def expected_scores(model: Any, pairs: Any, is_exact: bool) -> tuple[Any, Any]:
    """The score of each edge by the forward that is written out: patched alone, or by autograd."""
    graph = graph_of(Hooks(model))
    clean, corrupted = (WrittenOut(model, tokens_of(side)) for side in (pairs.clean, pairs.corrupted))
    right, wrong = (tokens_of(tokens[:, 0]) for tokens in (pairs.answers, pairs.corrupted_answers))
    rows = torch.arange(len(pairs))

    def metric(moved: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = WrittenOut(model, tokens_of(pairs.clean), moved).logits[:, -1]
        return (logits[rows, right] - logits[rows, wrong]).mean()

    found = np.zeros(graph.edges.shape)
    away = {writer: (corrupted.written[writer] - clean.written[writer]).detach() for writer in graph.writers}
    if is_exact:
        with torch.no_grad():
            before = metric({})
            for u, v in np.argwhere(graph.edges):
                found[u, v] = metric({graph.readers[v]: away[graph.writers[u]]}) - before
        return found, graph
    moved = {reader: torch.zeros_like(clean.written["input"]).requires_grad_() for reader in graph.readers}
    slopes = dict(zip(moved, torch.autograd.grad(metric(moved), list(moved.values()))))
    for u, v in np.argwhere(graph.edges):
        found[u, v] = (away[graph.writers[u]] * slopes[graph.readers[v]]).sum()
    return found, graph


@kinds
def test_attribution_is_that_of_autograd_and_patching_is_exact(kind: str) -> None:
    """Each head of a group has edges of its own into its key and its value."""
    model, pairs = in_doubles(grouped_model(kind)), random_pairs(n=3)
    slopes, graph = expected_scores(model, pairs, is_exact=False)
    found = Attribution(method="eap").scores(Hooks(model), pairs)
    np.testing.assert_allclose(found, slopes, atol=1e-6 * np.abs(slopes).max(), rtol=1e-4)
    keys = [reader.startswith("a0") and reader.endswith(("<k>", "<v>")) for reader in graph.readers]
    assert np.abs(slopes[0, keys]).min() > 1e-6 and len({*slopes[0, keys].round(9)}) == 8  # heads of a group differ
    exact, _ = expected_scores(model, pairs, is_exact=True)
    table = Patching(level="edge").run(model, pairs).to_pydict()
    assert {"a1.h3<k>", "a1.h2<v>"} <= set(table["reader"])
    for writer, reader, score in zip(table["writer"], table["reader"], table["score"]):
        if reader:
            expected = exact[graph.writers.index(writer), graph.readers.index(reader)]
            assert score == pytest.approx(expected, abs=1e-6), (writer, reader)
    # Small differences are their own derivatives; large ones that the method integrates come near.
    ig = Attribution(ig_steps=20).scores(Hooks(model), pairs)[graph.edges]
    assert np.corrcoef(ig, exact[graph.edges])[0, 1] > 0.6


@kinds
def test_circuits_of_all_edges_and_of_none_are_the_two_runs(kind: str) -> None:
    hooks = Hooks(grouped_model(kind)).ungrouped()
    batch, edges = on_device(hooks, random_pairs()), torch.from_numpy(graph_of(hooks).edges)
    corrupted = writers(hooks, batch.corrupted)
    whole, empty = cut_logits(hooks, batch, corrupted, torch.stack([edges, edges & False]))
    for found, tokens in ((whole, batch.clean), (empty, batch.corrupted)):
        torch.testing.assert_close(found, hooks.model(tokens).logits[:, -1], atol=3e-5, rtol=1e-4)


@kinds
def test_what_the_logits_read_is_known_through_their_norm(kind: str) -> None:
    model = in_doubles(grouped_model(kind))
    stream = torch.randn(5, 32, dtype=torch.float64)
    size = (stream.square().mean(-1, keepdim=True) + model.config.rms_norm_eps).sqrt()
    read = unembedding(Hooks(model), torch.arange(VOCABULARY))
    torch.testing.assert_close(stream @ read.T / size, model.lm_head(model.model.norm(stream)))


def test_a_norm_that_adds_one_to_its_weight_is_known() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = GemmaForCausalLM(GemmaConfig(vocab_size=VOCABULARY, num_key_value_heads=1, head_dim=8, **sizes)).eval()
    norm = model.model.norm
    torch.nn.init.normal_(norm.weight, std=0.3)
    torch.testing.assert_close(gain(norm), 1 + norm.weight.detach())
    table = Attribution(method="eap", draws=0).run(model, random_pairs())
    assert len(table) and Hooks(model).n_group == 1


@kinds
def test_heads_of_a_group_have_its_value(kind: str) -> None:
    model = grouped_model(kind)
    rows = Sinks(split="id").run(model, random_pairs()).to_pylist()
    found = {(row["layer"], row["head"]): row["value"] for row in rows if row["measure"] == "value"}
    _, values = Hooks(model).read(TOKENS, ["blocks.0.attn.hook_v"])
    norms = values["blocks.0.attn.hook_v"].norm(dim=-1).double()
    shares = norms[:, 0].mean(0) / norms[:, 1:].mean((0, 1))
    for head in range(4):
        assert found[0, head] == pytest.approx(shares[head * len(shares) // 4].item(), rel=1e-5)


@kinds
def test_the_path_of_a_head_is_that_of_its_group_s_values(kind: str) -> None:
    model = grouped_model(kind)
    tokens = np.arange(VOCABULARY, dtype=np.int32)[:, None]
    block, width = model.model.layers[0], model.model.layers[0].self_attn.head_dim
    groups = model.config.num_key_value_heads
    with torch.no_grad():
        stream = block.mlp(block.post_attention_layernorm(model.model.embed_tokens(torch.arange(VOCABULARY))))
        chosen = []
        for head in range(4):
            rows = slice(head * groups // 4 * width, (head * groups // 4 + 1) * width)
            value = block.input_layernorm(stream) @ block.self_attn.v_proj.weight[rows].T
            out = value @ block.self_attn.o_proj.weight[:, head * width : (head + 1) * width].T
            chosen.append(model.lm_head(model.model.norm(1e3 * out)).argmax(-1).int().numpy())
    for head in range(4):
        pairs = Pairs(tokens, np.roll(tokens, 1, 0), chosen[head][:, None], np.roll(tokens, 2, 0))
        found = Successor().run(model, pairs).to_pylist()
        scores = {row["head"]: row["score"] for row in found if row["layer"] == 0 and row["set"] == "all"}
        assert scores[head] == 1.0 > min(scores.values())


@kinds
def test_a_recipe_knows_before_it_trains_that_edges_are_known(kind: str) -> None:
    assert edges_of(grouped_model(kind).config) == "llama" and edges_of(GemmaConfig()) is None


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_every_analysis_of_a_folder_gives_a_table_or_says_why_not(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, pairs = grouped_model(kind), random_pairs(n=8)
    model.save_pretrained(tmp_path / "model")
    lines = [
        {"clean": [int(token) for token in clean], "corrupted": [int(token) for token in other],
         "answer": [int(a[0])], "corrupted_answer": [int(b[0])]}
        for clean, other, a, b in zip(pairs.clean, pairs.corrupted, pairs.answers, pairs.corrupted_answers)
    ]  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "pairs.jsonl"), "--format", "svg"]
    done, refused = set(), {}
    for name in names("circuits"):
        capsys.readouterr()
        status = main([*words, "--analysis", name, "--output", str(tmp_path / name)])
        said = capsys.readouterr().err.strip()
        if status == 0:
            done.add(name)
            assert list((tmp_path / name).rglob("*.parquet")), name
        else:
            assert status == 2 and "\n" not in said, (name, said)
            refused[name] = said
    print(done, refused)
    assert done >= {
        "attention", "attention_density", "attribution", "causal_tracing", "faithfulness", "logit_lens",
        "matrix_statistics", "patching", "sinks", "tuned_lens",
    }, refused  # fmt: skip
