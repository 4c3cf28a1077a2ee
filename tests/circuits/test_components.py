"""Components of a circuit that is built by hand, and each score against plain torch on random models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

from pipeline.circuits._batch import on_device
from pipeline.circuits._file_pairs import FilePairs
from pipeline.circuits._head_scores import copying, suppression, where_they_end
from pipeline.circuits._pairs import CorpusPairs
from pipeline.circuits.base import Pairs
from pipeline.circuits.components import Components, Paths
from pipeline.circuits.hooks import Hooks
from pipeline.circuits.tables import add_step
from pipeline.corpora.behaviours import Behaviours
from pipeline.corpora.composition import Composition
from pipeline.corpora.store import build
from pipeline.models.gpt2_bare import Gpt2Bare
from pipeline.plots.components import best, direct_share, inhibition_share, movers, over_steps, suppressors
from pipeline.utils.errors import MismatchError, ParameterError
from tests.circuits.small import KINDS, random_model, random_pairs, tokens_of

NAMES, GAVE, TO = 6, 6, 7  # names are tokens 0 to 5
TOKEN, PLACE, GIVER = 0, 12, 24  # where in the stream the token, its place, and who gave are written
WIDTH, HEAD = 36, 12


def scores_of(table: Any) -> dict[str, np.ndarray]:
    rows = table.to_pylist()
    shape = [1 + max(row[name] for row in rows) for name in ("layer", "head")]
    found = {row["component"]: np.full(shape, np.nan) for row in rows}
    for row in rows:
        found[row["component"]][row["layer"], row["head"]] = np.nan if row["score"] is None else row["score"]
    return found


def sentences() -> Pairs:
    """`A B gave A to` -> B, and `A B gave B to` -> A: every two names, each of them the giver."""
    rows = [(a, b, giver) for a in range(NAMES) for b in range(NAMES) if a != b for giver in (a, b)]
    clean = np.array([[a, b, GAVE, giver, TO] for a, b, giver in rows], np.int32)
    other = np.array([[a + b - giver] for a, b, giver in rows], np.int32)
    corrupted = clean.copy()
    corrupted[:, 3] = other[:, 0]
    return Pairs(clean, corrupted, other, clean[:, 3:4])


def built() -> Any:
    """A head that looks one token back, one that says who gave, one that copies who did not, one that suppresses it."""
    model: Any = Gpt2Bare(n_layer=2, n_embd=WIDTH, n_head=3, n_inner=4, n_positions=12).build(8)
    eye, sharp = torch.eye(WIDTH), 12.0

    def head(layer: int, number: int) -> tuple[Any, ...]:
        """Views of a head's weights: queries, keys, values (D, E), and the output (E, D)."""
        attention = model.transformer.h[layer].attn
        own = slice(number * HEAD, (number + 1) * HEAD)
        parts = attention.c_attn.weight.unflatten(1, (3, WIDTH))[:, :, own].unbind(1)
        return *parts, attention.c_proj.weight[own]

    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.transformer.wte.weight.copy_(eye[TOKEN : TOKEN + 8])
        model.transformer.wpe.weight.copy_(eye[PLACE : PLACE + 12])
        model.lm_head.weight.copy_(eye[TOKEN : TOKEN + 8])
        model.lm_head.weight[:NAMES] -= 1e-4 * eye[GIVER : GIVER + NAMES]  # where all logits are equal, all are highest
        query, key, *_ = head(0, 0)
        for place in range(12):
            key[PLACE + place, place] = sharp
            query[PLACE + place, max(place - 1, 0)] = sharp
        query, key, value, out = head(0, 1)  # from the end to place 3
        query[PLACE + 4, 0] = key[PLACE + 3, 0] = sharp
        for name in range(NAMES):
            value[TOKEN + name, name] = out[name, GIVER + name] = 1
        for number, written in ((0, 1.0), (1, -0.3)):
            query, key, value, out = head(1, number)
            query[PLACE + 4, 0] = sharp  # to names in places 0 and 1, but for the giver's
            key[PLACE, 0] = key[PLACE + 1, 0] = sharp
            for name in range(NAMES):
                query[GIVER + name, 1 + name] = -sharp
                key[TOKEN + name, 1 + name] = sharp
                value[TOKEN + name, name] = 1
                out[name, TOKEN + name] = written
    return model.eval()


def test_the_parts_of_a_circuit_that_is_built_are_found() -> None:
    found = scores_of(Components(kept=1, length=5).run(built(), sentences()))
    assert found["previous token"][0, 0] > 0.99 and found["previous token"].max() == found["previous token"][0, 0]
    # Names are the whole of what the mover copies; a head that writes nothing copies nothing.
    assert found["copying"].tolist() == [[0, 0, 0], [1, 0, 0]]
    assert found["name mover"].tolist() == [[0, 0, 0], [1, 0, 0]]
    assert found["attention"][1, 0] > 0.99 and found["attention"][1, 1] > 0.99 and found["attention"][0, 1] < -0.99
    # The mover writes 1 and the suppressor -0.3 to one of the two logits: their difference goes from 0.7 to -0.7.
    expected = [[0, 0, 0], [2 / 1.4, -0.6 / 1.4, 0]]
    np.testing.assert_allclose(found["direct"], expected, atol=1e-3)
    np.testing.assert_allclose(found["S-inhibition"][0], [0, 2 / 1.4, 0], atol=1e-3)
    assert np.isnan(found["S-inhibition"][1]).all()  # no mover comes after
    assert found["copy suppression"][1, 1] > 0.8 > 0.3 > found["copy suppression"][1, 0]
    assert np.isnan(found["copy suppression"][1, 2])  # it does nothing


def test_a_head_is_no_mover_unless_it_copies_looks_and_matters() -> None:
    found = scores_of(Components(copies=0.99).run(built(), sentences()))
    assert found["name mover"][1, 0] == 1
    model, key = built(), slice(WIDTH, WIDTH + HEAD)
    with torch.no_grad():  # without a key for the giver it looks at both names
        model.transformer.h[1].attn.c_attn.weight[TOKEN : TOKEN + NAMES, key] = 0
    found = scores_of(Components().run(model, sentences()))
    assert found["copying"][1, 0] == 1 and not found["name mover"].any() and np.isnan(found["S-inhibition"]).all()
    # The suppressor alone now tells the names apart, the wrong way: there is no behaviour.
    assert np.isnan(found["direct"]).all()


def both_in(pairs: Pairs) -> Pairs:
    """The pairs asked for two tokens of their prompts."""
    return Pairs(pairs.clean, pairs.corrupted, pairs.clean[:, 1:2], pairs.clean[:, 4:5])


def parts_of(model: Any, layer: int) -> tuple[Any, Any, Any, Any]:
    """A block's first norm, fused projection, output projection, and where each head's query begins with its stride."""
    if hasattr(model.base_model, "h"):
        block = model.base_model.h[layer]
        return block.ln_1, block.attn.c_attn, block.attn.c_proj, lambda head, part: 32 * part + 8 * head
    block = model.base_model.layers[layer]
    attention = block.attention
    return block.input_layernorm, attention.query_key_value, attention.dense, lambda head, part: 24 * head + 8 * part


def written(model: Any, layer: int, z: torch.Tensor, head: int) -> torch.Tensor:
    """What a head of width 8 adds to the stream, from the input of the output projection."""
    _, _, out, _ = parts_of(model, layer)
    own = slice(8 * head, 8 * head + 8)
    return z[..., own] @ (out.weight[own] if hasattr(model.base_model, "h") else out.weight[:, own].T)


def seen(model: Any, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Streams before and after the first two blocks, the inputs of output projections, projections, and logits."""
    found: dict[str, torch.Tensor] = {}
    handles = []
    blocks = model.base_model.h if hasattr(model.base_model, "h") else model.base_model.layers
    for layer in (0, 1):
        _, fused, out, _ = parts_of(model, layer)
        handles.append(blocks[layer].register_forward_pre_hook(lambda _, x, i=layer: found.update({f"x{i}": x[0]})))
        handles.append(fused.register_forward_hook(lambda _, x, y, i=layer: found.update({f"qkv{i}": y})))
        handles.append(out.register_forward_pre_hook(lambda _, x, i=layer: found.update({f"z{i}": x[0]})))
    handles.append(blocks[-1].register_forward_hook(lambda _, x, y: found.update(end=y)))
    with torch.no_grad():
        found["logits"] = model(tokens).logits[:, -1]
    for handle in handles:
        handle.remove()
    return found


def final(model: Any, stream: torch.Tensor) -> torch.Tensor:
    last = model.base_model.ln_f if hasattr(model.base_model, "h") else model.base_model.final_layer_norm
    return model.get_output_embeddings()(last(stream))


def large(kind: str) -> Any:
    """A model whose heads change its output by far more than rounding does."""
    model = random_model(kind)
    if kind == "bare":  # which is drawn with smaller weights
        with torch.no_grad():
            for weight in model.parameters():
                weight *= 2.5
    return model


plain = pytest.mark.parametrize("kind", ["gpt2", "neox-parallel", "neox-sequential", "bare"])


@plain
def test_copying_is_what_the_model_s_modules_give(kind: str) -> None:
    model, pairs = large(kind), both_in(random_pairs(n=40))
    tokens = tokens_of(pairs.clean)
    names = (tokens == tokens[:, 1:2]) | (tokens == tokens[:, 4:5])
    run = seen(model, tokens)
    for top in (1, 5):
        found = copying(Hooks(model), tokens, names, top)
        for layer in (0, 1):
            norm, fused, _, place = parts_of(model, layer)
            with torch.no_grad():
                projected = fused(norm(run[f"x{layer}"]))
                for head in range(4):
                    values = torch.zeros(*tokens.shape, 32)
                    values[..., 8 * head : 8 * head + 8] = projected[..., place(head, 2) : place(head, 2) + 8]
                    logits = final(model, written(model, layer, values, head))[names]
                    best = logits.topk(top).indices
                    expected = (best == tokens[names][:, None]).any(1).double().mean().item()
                    assert found[layer, head] == pytest.approx(expected), (top, layer, head)
        assert found.max() > 0 and found.min() < 1


@plain
def test_paths_are_those_of_patched_modules(kind: str) -> None:
    """An edge to the logits, and one to the queries of two heads, each computed with hooks of torch alone."""
    model, pairs = large(kind), both_in(random_pairs(n=40))
    sides = [tokens_of(side) for side in (pairs.clean, pairs.corrupted)]
    clean, corrupted = (seen(model, side) for side in sides)
    rows = torch.arange(len(pairs))
    right, wrong = (tokens_of(side[:, 0]) for side in (pairs.answers, pairs.corrupted_answers))

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return (logits[rows, right] - logits[rows, wrong]).double()

    with torch.no_grad():
        paths = Paths(Hooks(model), on_device(Hooks(model), pairs))
    paths.absent = False  # which a random model is
    change = (metric(clean["logits"]) - metric(corrupted["logits"])).mean().item()
    norm, fused, _, place = parts_of(model, 1)
    for head in range(4):
        away = {i: written(model, i, corrupted[f"z{i}"] - clean[f"z{i}"], head) for i in (0, 1)}
        for layer in (0, 1):
            with torch.no_grad():
                after = metric(final(model, clean["end"][:, -1] + away[layer][:, -1]))
            (found,), _ = paths.lost([(f"a{layer}.h{head}", ["logits"])])
            assert found == pytest.approx((metric(clean["logits"]) - after).mean().item() / change, abs=1e-4)

        def patch(_: Any, inputs: Any, output: torch.Tensor, away: torch.Tensor = away[0]) -> torch.Tensor:
            other = F.linear if isinstance(fused, torch.nn.Linear) else None
            x = norm(clean["x1"] + away)
            new = other(x, fused.weight, fused.bias) if other else x @ fused.weight + fused.bias
            output = output.clone()
            for mover in (1, 2):
                own = slice(place(mover, 0), place(mover, 0) + 8)
                output[..., own] = new[..., own]
            return output

        handle = fused.register_forward_hook(patch)
        with torch.no_grad():
            after = metric(model(sides[0]).logits[:, -1])
        handle.remove()
        (found,), _ = paths.lost([(f"a0.h{head}", ["a1.h1<q>", "a1.h2<q>"])])
        assert found == pytest.approx((metric(clean["logits"]) - after).mean().item() / change, abs=1e-4)
    assert abs(change) > 0.01


@plain
@pytest.mark.parametrize("kept", [0.05, 0.5, 1.0])
def test_copy_suppression_is_what_numpy_gives(kind: str, kept: float) -> None:
    model, pairs = large(kind), both_in(random_pairs(n=30))
    tokens, hooks = tokens_of(pairs.clean), Hooks(model)
    batch = on_device(hooks, pairs)
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in (0, 1)]
    found = suppression(hooks, batch, where_they_end(hooks, batch, names), kept)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attention = [layer[:, :, -1].double().numpy() for layer in model(tokens, output_attentions=True).attentions]
    run = seen(model, tokens)
    clean = run["logits"].double().log_softmax(-1).numpy()
    last = model.base_model.ln_f if hasattr(model.base_model, "h") else model.base_model.final_layer_norm
    read = model.get_output_embeddings().weight.detach().double().numpy()
    if getattr(last, "weight", None) is not None:
        read = read * last.weight.detach().double().numpy()
        read = read - read.mean(1, keepdims=True)
    unit = (read / np.linalg.norm(read, axis=1, keepdims=True))[pairs.clean]  # (n, T, D)
    count = max(int(np.ceil(kept * 7)), 1)
    for layer in (0, 1):
        _, _, out, place = parts_of(model, layer)
        with torch.no_grad():
            lens = final(model, run[f"x{layer}"][:, -1]).double().numpy()
        own = np.take_along_axis(lens, pairs.clean, 1)
        expected = own >= np.sort(own, axis=1)[:, -count][:, None]
        for head in range(4):
            values = run[f"qkv{layer}"][..., place(head, 2) : place(head, 2) + 8].double().numpy()
            weight = out.weight.detach().double().numpy()
            weight = weight if hasattr(model.base_model, "h") else weight.T
            parts = attention[layer][:, head, :, None] * (values @ weight[8 * head : 8 * head + 8])
            away = parts - parts.mean(0)
            along = np.minimum((away * unit).sum(-1), 0) * expected
            lowered = (along[..., None] * unit).sum(1)
            total = []
            for change in (lowered - away.sum(1), -away.sum(1)):
                added = torch.zeros(*tokens.shape, 32)
                added[:, -1] = torch.from_numpy(change).float()
                handle = out.register_forward_hook(lambda _, x, y, added=added: y + added)
                with torch.no_grad():
                    logs = model(tokens).logits[:, -1].double().log_softmax(-1).numpy()
                handle.remove()
                total.append((np.exp(logs) * (logs - clean)).sum(1).mean())
            assert found[layer, head] == pytest.approx(1 - total[0] / total[1], abs=2e-3), (layer, head)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_is_looked_at(kind: str) -> None:
    model = random_model(kind)
    found = scores_of(Components(repeats=4).run(model, both_in(random_pairs(n=12))))
    assert len(found) == 9 and np.isfinite(found["copying"]).all()


def test_prompts_without_both_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="split: no prompt of id holds its answer and the corrupted one's"):
        Components().choose(CorpusPairs(build(Composition.tiny())))
    with pytest.raises(MismatchError, match="looks at prompts that hold their answer and that of the corrupted"):
        Components().run(random_model("gpt2"), random_pairs())
    stored = build(Behaviours.tiny())
    assert len(Components(pairs=10).choose(CorpusPairs(stored))) == 10
    with pytest.raises(ParameterError, match="no prompt of agreement holds its answer"):
        Components(split="agreement").choose(CorpusPairs(stored))
    rows = ['{"clean": [1, 2, 1], "corrupted": [1, 2, 2], "answer": [2], "corrupted_answer": [1]}']
    rows.append('{"clean": [1, 2, 1], "corrupted": [1, 2, 2], "answer": [3], "corrupted_answer": [1]}')
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    assert len(Components().choose(FilePairs(tmp_path / "pairs.jsonl", None))) == 1


def test_steps_are_drawn_as_they_are() -> None:
    """Between a model that does nothing and the one that is built the shares come up, and the mover is named."""
    tables = []
    for step, share in ((0, 0.0), (10, 1.0)):
        model = built()
        with torch.no_grad():
            for block in model.transformer.h:
                block.attn.c_proj.weight *= share
        tables.append(add_step(Components(kept=1).run(model, sentences()), step))
    table = pa.concat_tables(tables)
    assert over_steps(table, direct_share).steps.tolist() == [10]  # absent before
    assert over_steps(table, direct_share).values[0] == pytest.approx(2 / 1.4, abs=1e-3)
    assert over_steps(table, inhibition_share).values[0] == pytest.approx(2 / 1.4, abs=1e-3)
    assert over_steps(table, best("copying")).values.tolist() == [0, 1] and movers(tables[1]) == [(1, 0)]
    assert suppressors(tables[1]) == [(1, 1)] and suppressors(tables[0]) == []
    assert direct_share(tables[1], suppressors) == pytest.approx(-0.6 / 1.4, abs=1e-3)
    drawn = Components().draw(table)
    assert "name movers are L1H0, and L1H1 suppress copies." in drawn[""].caption and set(drawn) == {"", "heads"}
    assert set(Components().draw(tables[1])) == {"heads"}
