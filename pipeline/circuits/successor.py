"""Heads that turn an element of an ordered set into the one that follows it, by their weights alone.

Gould et al. 2024, "Successor Heads" (arXiv 2312.09230), section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.circuits.base import Analysis, Columns, Pairs, Source
from pipeline.config.fields import param
from pipeline.plots.base import Drawing
from pipeline.utils.errors import MismatchError

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedModel

    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

ALL = "all"  # in the place of a set


@dataclass(frozen=True)
class Successor(Analysis):
    """Each head's share of the elements of ordered sets whose successor its own path to the logits ranks first.

    The path of a head h is W_U (W_O W_V)_h MLP0(W_E[t]), with the norms that stand before the MLP, before the head and
    before the output, and without positions, attention and the biases of the head. It ranks the tokens of the set that
    t is of. `score` is that share, of each set and of `all` elements together; `chance` is that of a random order.
    Pairs of a file are elements, as clean prompts of one token, and those that follow them as answers; a column `set`
    names their set.
    """

    embedding: bool = param(False, "the embedding goes on beside what the first MLP makes of it")

    def choose(self, source: Source) -> Pairs:
        return source.successors()

    def check(self, model: PreTrainedModel, pairs: Pairs) -> None:
        super().check(model, pairs)
        if pairs.clean.shape[1] != 1:
            raise MismatchError(f"Successor looks at single tokens, and the prompts have {pairs.clean.shape[1]}")

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        import torch

        from pipeline.circuits._architectures import gain, is_centred

        sets = np.array(pairs.metadata.get("set", [ALL] * len(pairs)))
        model: Any = hooks.model
        tokens = torch.from_numpy(pairs.clean[:, 0]).long().to(model.device)
        embedded = model.get_input_embeddings()(tokens)[None]
        stream = hooks.part(0, "mlp")(hooks.part(0, "ln2")(embedded))
        if self.embedding:
            stream = stream + embedded
        scale = gain(hooks.final_norm)
        output = (hooks.head.weight if scale is None else hooks.head.weight * scale).cpu().double()
        rows: list[dict[str, Any]] = []
        for layer in range(hooks.n_layer):
            normed = hooks.part(layer, "ln1")(stream)[0].cpu().double()
            values = torch.einsum("nd,hed->nhe", normed, hooks.in_weight(layer)[2].cpu().double())
            added = torch.einsum("nhe,hed->hnd", values, hooks.out_weight(layer).cpu().double())
            if is_centred(hooks.final_norm):  # the norm's scale changes no order
                added = added - added.mean(-1, keepdim=True)
            for head in range(hooks.n_head):
                hits = np.zeros(len(pairs), bool)
                chance = np.zeros(len(pairs))
                for name in dict.fromkeys(sets):
                    of = np.flatnonzero(sets == name)
                    known = np.unique([pairs.clean[of, 0], pairs.answers[of, 0]])
                    logits = added[head, of] @ output[torch.from_numpy(known).long().to(output.device)].T
                    hits[of] = known[logits.argmax(-1).cpu().numpy()] == pairs.answers[of, 0]
                    chance[of] = 1 / len(known)
                groups = {name: sets == name for name in dict.fromkeys(sets) if name != ALL}
                for name, chosen in {ALL: np.ones(len(pairs), bool), **groups}.items():
                    score = {"score": hits[chosen].mean(), "chance": chance[chosen].mean(), "pairs": chosen.sum()}
                    rows.append({"layer": layer, "head": head, "set": str(name), **score})
        return {name: [row[name] for row in rows] for name in rows[0]}

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.successor import draw_successor

        return draw_successor(table, marks)
