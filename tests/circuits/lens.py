"""Edge attribution by transformer-lens, in the order of our graph; for checks against an independent implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pipeline.circuits._edge_patching import graph_of
from pipeline.circuits.base import Pairs
from pipeline.circuits.hooks import Hooks


def lens_scores(model: Any, pairs: Pairs) -> Callable[[], Any]:
    """A function that computes scores (U, V) of all edges; the model is taken apart by the wrapper, so pass a copy.

    transformer-lens takes the gradient of the run that it calls corrupted, and keeps edges of every position apart:
    so the roles are swapped, and positions are summed.
    """
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

    graph = graph_of(Hooks(model))
    writers = {name: i for i, name in enumerate(graph.writers)}
    readers = {name: i for i, name in enumerate(graph.readers)}
    device = model.device
    bridge = build_bridge_from_module(model, type(model).__name__, hf_config=model.config, tokenizer=None)
    bridge.eval()
    clean, corrupted = (torch.from_numpy(part).long().to(device) for part in (pairs.clean, pairs.corrupted))

    def writer_of(node: Any) -> int:
        names = {"embed": "input", "attn_head_out": f"a{node.layer}.h{node.head}", "mlp_out": f"m{node.layer}"}
        return writers[names[node.kind]]

    def reader_of(node: Any) -> int:
        part = f"a{node.layer}.h{node.head}<{node.kind[0]}>"
        return readers[{"mlp_in": f"m{node.layer}", "logits": "logits"}.get(node.kind, part)]

    def scores() -> Any:
        total = np.zeros(graph.edges.shape)
        for i in range(len(pairs)):
            answer, wrong = int(pairs.answers[i, 0]), int(pairs.corrupted_answers[i, 0])
            found = attribution_patch(
                bridge, corrupted[i : i + 1], clean[i : i + 1],
                lambda logits, answer=answer, wrong=wrong: logits[0, -1, answer] - logits[0, -1, wrong],
                EdgeAttributionConfig(granularity="edge"),
            )  # fmt: skip
            for (writer, reader), score in found.edge_scores.items():
                total[writer_of(writer), reader_of(reader)] += score
        return total / len(pairs)

    return scores
