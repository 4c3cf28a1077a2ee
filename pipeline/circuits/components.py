"""The parts that the circuit of indirect objects is made of, head by head, and what they contribute.

Wang et al. 2022, "Interpretability in the Wild" (arXiv 2211.00593), section 3, found them in GPT-2; Tigges et al. 2024
(arXiv 2407.10827), section 4, follow them over training, copy suppression (McDougall et al. 2023, arXiv 2310.04625)
included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.circuits.base import Analysis, Columns, Pairs, Source
from pipeline.config.fields import param
from pipeline.plots.base import Drawing
from pipeline.utils.errors import MismatchError, ParameterError

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor
    from transformers import PreTrainedModel

    from pipeline.circuits._batch import Batch
    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

IOI = "ioi"  # the split of the corpus behaviours
Cut = tuple[str, Sequence[str]]  # a writer, and the readers that its edges are cut to


@dataclass(frozen=True)
class Components(Analysis):
    """Each head's scores as a part of a circuit that names one of two tokens of the prompt and not the other.

    Of repeated random tokens: `induction`, `previous token` and `duplicate token`, as in `attention`. By its weights:
    `copying`, the share of places of both tokens whose own state a head turns into logits that have the token among
    the `top` highest. Where prompts end: `attention`, to the answer less that to the other token. By path patching, as
    shares of the difference that corruption makes to the logit difference: `direct`, what is lost where a head's edge
    to the logits alone is corrupted, and `S-inhibition`, the same of its edges to the queries of the name movers. These
    are the heads with `copying` above `copies` that attend more to the answer than to any place of the other token and
    whose `direct` stands out from 0; `name mover` is their `copying`, and 0 for others. `copy suppression` is the share
    of what a head does that is lowering the logits of tokens it attends to. Shares are null where the behaviour is
    absent, and `S-inhibition` where there is no name mover after the head.
    """

    pairs: int = param(100, "most pairs of prompts", ge=1)
    repeats: int = param(64, "rows of repeated random tokens", ge=1)
    length: int = param(16, "most tokens that are repeated", ge=2)
    top: int = param(5, "highest logits among which a copied token is", ge=1)
    copies: float = param(0.1, "copying above which a head can be a name mover", ge=0, lt=1)
    kept: float = param(0.05, "share of a prompt's tokens whose logits copy suppression may lower", gt=0, le=1)

    tiny_values: ClassVar[dict[str, Any]] = {"pairs": 16, "repeats": 8}
    needs_float32: ClassVar[bool] = True
    needs_edges: ClassVar[bool] = True
    same_length: ClassVar[bool] = True

    @property
    def splits(self) -> tuple[str, ...]:
        return (self.split, IOI)

    def choose(self, source: Source) -> Pairs:
        """Those of the chosen pairs whose clean prompt holds both tokens."""
        split = next((split for split in self.splits if split in source.splits), self.split)
        found = source.pairs(split, self.pairs, self.seed)
        both = np.all([(found.clean == tokens).any(axis=1) for tokens in _both(found)], axis=0)
        if not both.any():
            raise ParameterError("split", f"no prompt of {split} holds its answer and the corrupted one's; ioi does")
        return found.take(both)

    def check(self, model: PreTrainedModel, pairs: Pairs) -> None:
        super().check(model, pairs)
        if not all((pairs.clean == tokens).any(axis=1).all() for tokens in _both(pairs)):
            raise MismatchError("Components looks at prompts that hold their answer and that of the corrupted prompt")

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        from pipeline.circuits._batch import on_device
        from pipeline.circuits._head_scores import copying, repeated_scores, suppression, where_they_end
        from pipeline.circuits._stream import check_edges

        batch = on_device(hooks, pairs)
        check_edges(hooks, batch.clean)
        layers = range(hooks.n_layer)
        answer, other = (batch.clean == tokens[:, None] for tokens in (batch.answer, batch.wrong))
        ends = where_they_end(hooks, batch, [f"blocks.{layer}.attn.hook_pattern" for layer in layers])
        right, wrong = (np.stack([_most(end, places) for end in ends]) for places in (answer, other))
        scores = repeated_scores(hooks, pairs.clean, self.seed, self.repeats, self.length)
        scores["copying"] = copying(hooks, batch.clean, answer | other, self.top)
        scores["attention"] = right - wrong

        heads = [(layer, head) for layer in layers for head in range(hooks.n_head)]
        paths = Paths(hooks, batch)
        direct, stands_out = paths.lost([(f"a{layer}.h{head}", ["logits"]) for layer, head in heads])
        is_mover = (scores["copying"].ravel() > self.copies) & (right > wrong).ravel() & stands_out
        movers = [place for place, chosen in zip(heads, is_mover) if chosen]
        cuts = [(f"a{layer}.h{head}", [f"a{i}.h{j}<q>" for i, j in movers if i > layer]) for layer, head in heads]
        scores["direct"] = direct.reshape(right.shape)
        scores["name mover"] = scores["copying"] * is_mover.reshape(right.shape)
        scores["S-inhibition"] = paths.lost(cuts)[0].reshape(right.shape)
        scores["copy suppression"] = suppression(hooks, batch, ends, self.kept)
        layer, head = (grid.ravel() for grid in np.indices(right.shape))
        return {
            "layer": np.tile(layer, len(scores)),
            "head": np.tile(head, len(scores)),
            "component": np.repeat(list(scores), len(heads)),
            "score": np.concatenate([found.ravel() for found in scores.values()]).astype(np.float64),
        }

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.components import draw_components

        return draw_components(table, marks)


def _both(pairs: Pairs) -> tuple[Any, Any]:
    return pairs.answers[:, :1], pairs.corrupted_answers[:, :1]


def _most(attention_NHT: Tensor, places_NT: Tensor) -> Any:
    """Each head's highest attention to one of some places, (H,), a mean over prompts."""
    return attention_NHT.masked_fill(~places_NT[:, None], 0.0).amax(-1).cpu().double().mean(0).numpy()


class Paths:
    """What is lost of the logit difference where edges of a writer are corrupted, one set of edges at a time."""

    def __init__(self, hooks: Hooks, batch: Batch):
        from pipeline.circuits._batch import answer_logits, measure, stands_out
        from pipeline.circuits._edge_patching import graph_of

        self.hooks, self.batch, self.graph = hooks, batch, graph_of(hooks)
        clean, corrupted = (
            measure("logit_diff", answer_logits(hooks, side, batch), batch).cpu().double()
            for side in (batch.clean, batch.corrupted)
        )
        self.clean, self.change = clean, float((clean - corrupted).mean())
        self.absent = not (stands_out(clean) and stands_out(clean - corrupted))

    def lost(self, cuts: Sequence[Cut]) -> tuple[Any, Any]:
        """The share that each cut loses, NaN where it is of no edge or the behaviour is absent; and whether it stands
        out from 0 over pairs.
        """
        import torch

        from pipeline.circuits._batch import stands_out
        from pipeline.circuits._edge_patching import cut_metric

        graph, shares, beyond = self.graph, np.full(len(cuts), np.nan), np.zeros(len(cuts), bool)
        edges = torch.from_numpy(graph.edges).to(self.batch.clean.device)
        made = [] if self.absent else [i for i, (_, readers) in enumerate(cuts) if readers]
        for start in range(0, len(made), 64):
            places = made[start : start + 64]
            kept = edges.repeat(len(places), 1, 1)
            for circuit, place in zip(kept, places):
                writer, readers = cuts[place]
                circuit[graph.writers.index(writer), [graph.readers.index(name) for name in readers]] = False
            after = cut_metric(self.hooks, self.batch, kept, "logit_diff").cpu().double()
            for place, values in zip(places, after):
                shares[place] = float((self.clean - values).mean()) / self.change
                beyond[place] = stands_out(self.clean - values)
        return shares, beyond
