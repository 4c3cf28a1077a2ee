"""Each score of a component against plain torch and numpy, on random models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipeline.circuits._batch import on_device
from pipeline.circuits._head_scores import copying, suppression, where_they_end
from pipeline.circuits.base import Pairs
from pipeline.circuits.components import Paths
from pipeline.circuits.hooks import Hooks
from tests.circuits.small import random_model, random_pairs, tokens_of


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
