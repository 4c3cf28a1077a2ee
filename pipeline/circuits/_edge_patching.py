"""What flows along the edges of a model: writers' outputs, readers' gradients, and runs in which some edges are cut.

Tensors of writers and readers are (U, R, D) and (V, R, D): R = B x T positions of the batch, D the width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.circuits._architectures import epsilon, gain, is_centred
from pipeline.circuits._batch import Batch, Metric, answer_logits, measure
from pipeline.circuits._graph import Graph
from pipeline.circuits.hooks import Hooks
from pipeline.utils.errors import UnsupportedError

INPUT = "blocks.0.hook_resid_pre"


def graph_of(hooks: Hooks) -> Graph:
    """The edges of a model; an edge into the key or value of a group is one into each of its heads' (`ungrouped`)."""
    return Graph(hooks.n_layer, hooks.n_head, hooks.parallel)


def writer_points(hooks: Hooks) -> list[str]:
    layers = range(hooks.n_layer)
    return [INPUT, *(f"blocks.{i}.{name}" for i in layers for name in ("attn.hook_z", "hook_mlp_out"))]


def writers(hooks: Hooks, tokens: Tensor) -> Tensor:
    """What every writer adds to the stream in a run, (U, R, D)."""
    found: dict[str, Tensor] = {}
    points = writer_points(hooks)
    with torch.no_grad(), hooks.at({name: partial(found.__setitem__, name) for name in points}):
        hooks.model.base_model(input_ids=tokens, use_cache=False)
    return gather_writers(hooks, found)


def gather_writers(hooks: Hooks, found: dict[str, Tensor]) -> Tensor:
    parts = []
    for name in writer_points(hooks):
        value = found[name].flatten(0, 1)
        if name.endswith("hook_z"):
            value = torch.einsum("rhe,hed->hrd", value, hooks.out_weight(int(name.split(".")[1])))
        parts.append(value if value.ndim == 3 else value[None])
    return torch.cat(parts)


def reader_gradients(
    hooks: Hooks, batch: Batch, metric: Callable[[Tensor], Tensor], start: Tensor | None, into: Tensor
) -> Tensor:
    """Adds to `into` (V, R, D) the gradient of a metric of logits with respect to what each reader alone sees.

    `start` (B, T, D) takes the place of the state before the first block. One forward and one backward pass; the heads'
    shares follow from the gradients of their queries, keys and values, pulled back through projection and norm.
    Returns the metric, a scalar.
    """
    graph, layers = graph_of(hooks), range(hooks.n_layer)
    # An MLP's and the logits' own view of the stream is a place in the model; a single head's is not.
    views = [f"blocks.{i}.hook_mlp_in" for i in layers] + [f"blocks.{hooks.n_layer - 1}.hook_resid_post"]
    heads = [point for i in layers for point in hooks.head_points(i)]
    streams: dict[int, Tensor] = {}
    reading: dict[str, Any] = {f"blocks.{i}.hook_attn_in": partial(_note, streams, i) for i in layers}
    if start is not None:
        reading[INPUT] = lambda value: start
    tail = {"logits_to_keep": 1} if batch.end == batch.clean.shape[1] - 1 else {}

    def of_logits(logits: Tensor) -> Tensor:
        rows = torch.arange(len(logits), device=logits.device)
        return metric(logits[:, 0] if tail else logits[rows, batch.last])

    value, _, slopes = hooks.gradients(batch.clean, [*heads, *views], of_logits, reading, **tail)
    for layer in layers:
        places, found = graph.heads(layer), [slopes[point].flatten(0, 1) for point in hooks.head_points(layer)]
        slope_R3HE = torch.stack(found, 1) if len(found) > 1 else found[0]
        _pull_back(hooks, layer, slope_R3HE, streams[layer].flatten(0, 1), into[places])
        into[places.stop] += slopes[views[layer]].flatten(0, 1)
    into[-1] += slopes[views[-1]].flatten(0, 1)
    return value


def _note(found: dict[int, Tensor], key: int, value: Tensor) -> None:
    found[key] = value.detach()


def _pull_back(hooks: Hooks, layer: int, slope_R3HE: Tensor, stream_RD: Tensor, into: Tensor) -> None:
    """Adds to `into` (3H, R, D) gradients of queries, keys and values, taken back to the stream before the norm.

    With normed x = (stream - mean) / s the norm's derivative takes a gradient g of its output to
    (g w - mean(g w) - x mean(x g w)) / s. Scaling by the weight w and taking off the mean are folded into the
    projection, and mean(x g w) is the product of g with the projection of x, over D. RMSNorm takes off no mean.
    """
    norm, weight_3HED = hooks.part(layer, "ln1"), hooks.in_weight(layer)
    slope_NRE = slope_R3HE.flatten(1, 2).transpose(0, 1)
    weight_NED = weight_3HED.flatten(0, 1)
    if isinstance(norm, nn.Identity):
        into.baddbmm_(slope_NRE, weight_NED)
        return
    if not (is_centred(norm) or type(norm).__name__.endswith("RMSNorm")):
        raise UnsupportedError(f"edges are known through LayerNorm and RMSNorm, not through {type(norm).__name__}")
    if (scale := gain(norm)) is not None:
        weight_NED = weight_NED * scale
    centred_RD = stream_RD
    if is_centred(norm):
        weight_NED = weight_NED - weight_NED.mean(-1, keepdim=True)
        centred_RD = stream_RD - stream_RD.mean(-1, keepdim=True)
    inverse_R1 = (centred_RD.square().mean(-1, keepdim=True) + epsilon(norm)).rsqrt()
    x_RD = centred_RD * inverse_R1
    slope_NRE = slope_NRE * inverse_R1
    into.baddbmm_(slope_NRE, weight_NED)
    shares_NRE = torch.matmul(x_RD, weight_NED.transpose(-1, -2))
    along_NR1 = (slope_NRE * shares_NRE).sum(-1, keepdim=True).div_(x_RD.shape[-1])
    into.addcmul_(along_NR1, x_RD, value=-1)


def cut_logits(hooks: Hooks, batch: Batch, corrupted: Tensor, kept: Tensor) -> Tensor:
    """Logits (C, B, V) where the prompts end, of C circuits (C, U, V) of edges that are kept.

    Along every other edge flows what its writer writes in the corrupted run, `corrupted` (U, R, D). A reader with all
    its edges is not touched, so a circuit of all edges gives the very logits of the model.
    """
    graph = graph_of(hooks)
    circuits, rows, width = len(kept), corrupted.shape[1], corrupted.shape[2]
    many = batch.repeat(circuits)
    off = ((~kept) & torch.from_numpy(graph.edges).to(kept.device)).to(corrupted.dtype)
    away = off.new_zeros(circuits, len(graph.writers), rows * width)  # corrupted minus current, as they come to be
    functions: dict[str, Any] = {}

    def write(first: int, value: Tensor) -> None:
        count = len(value)
        now = value.reshape(count, circuits, rows * width).transpose(0, 1)
        away[:, first : first + count] = corrupted[first : first + count].flatten(1) - now

    def shift(readers: slice, seen: int) -> Tensor | None:
        """What is to be added to the stream for each of some readers, (N, C x R, D)."""
        missing = off[:, :seen, readers]
        if not missing.any():
            return None
        added = torch.bmm(missing.transpose(1, 2), away[:, :seen])
        return added.transpose(0, 1).reshape(-1, circuits * rows, width)

    def moved(reader: int, seen: int, value: Tensor) -> Tensor | None:
        added = shift(slice(reader, reader + 1), seen)
        return None if added is None else value + added[0].view_as(value)

    def attend(layer: int, parts: slice, value: Tensor) -> Tensor | None:
        """Queries, keys and values of some heads anew, (B, T, 3, H, E), or one of the three, (B, T, H, E)."""
        start = graph.heads(layer).start
        readers = slice(start + parts.start * hooks.n_head, start + parts.stop * hooks.n_head)
        added_NRD = shift(readers, graph.writers_before[layer])
        if added_NRD is None:
            return None
        touched_N = off[:, :, readers].any(1)
        normed = hooks.part(layer, "ln1").forward(streams[layer].flatten(0, 1) + added_NRD)  # past the hooks
        out_NRE = torch.bmm(normed, hooks.in_weight(layer)[parts].flatten(0, 1).transpose(-1, -2))
        bias = hooks.in_bias(layer)
        if bias is not None:
            out_NRE = out_NRE + bias[parts].flatten(0, 1)[:, None]
        new = out_NRE.transpose(0, 1).reshape(value.shape)
        where = touched_N.repeat_interleave(len(batch), 0)[:, None].unflatten(-1, value.shape[2:-1])[..., None]
        return torch.where(where, new, value)

    def heads(layer: int, z: Tensor) -> None:
        write(graph.writers_before[layer], torch.einsum("rhe,hed->hrd", z.flatten(0, 1), hooks.out_weight(layer)))

    def mlp(layer: int, out: Tensor) -> None:
        write(graph.writers_before[layer + 1] - 1, out.flatten(0, 1)[None])

    streams: dict[int, Tensor] = {}
    functions[INPUT] = lambda value: write(0, value.flatten(0, 1)[None])
    for layer in range(hooks.n_layer):
        at = f"blocks.{layer}."
        functions[f"{at}hook_attn_in"] = partial(_note, streams, layer)
        points = hooks.head_points(layer)
        for number, point in enumerate(points):
            parts = slice(number, number + 1) if len(points) > 1 else slice(0, 3)
            functions[point] = partial(attend, layer, parts)
        functions[f"{at}attn.hook_z"] = partial(heads, layer)
        functions[f"{at}hook_mlp_in"] = partial(moved, graph.heads(layer).stop, graph.mlp_sees(layer))
        functions[f"{at}hook_mlp_out"] = partial(mlp, layer)
    last = f"blocks.{hooks.n_layer - 1}.hook_resid_post"
    functions[last] = partial(moved, len(graph.readers) - 1, len(graph.writers))
    with torch.no_grad(), hooks.at(functions):
        return answer_logits(hooks, many.clean, many).unflatten(0, (circuits, -1))


def cut_metric(
    hooks: Hooks, batch: Batch, kept: Tensor, metric: Metric, clean: Tensor | None = None, most: int = 1 << 25
) -> Tensor:
    """The metric (C, n) of circuits (C, U, V) on every pair, in as many parts as memory asks for; see `cut_logits`."""
    graph = graph_of(hooks)
    per_row = batch.clean.shape[1] * hooks.d_model * len(graph.writers) + hooks.model.config.vocab_size
    pieces = []
    rows = max(min(most // per_row, len(batch)), 1)
    together = max(most // (per_row * rows), 1)
    for start in range(0, len(batch), rows):
        part = batch.rows(start, rows)
        corrupted = writers(hooks, part.corrupted)
        before = None if clean is None else clean[start : start + rows]
        found = []
        for first in range(0, len(kept), together):
            logits_CBV = cut_logits(hooks, part, corrupted, kept[first : first + together])
            found += [measure(metric, logits, part, before) for logits in logits_CBV]
        pieces.append(torch.stack(found))
    return torch.cat(pieces, 1)
