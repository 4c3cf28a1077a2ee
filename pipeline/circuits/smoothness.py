"""How smoothly states vary along a text: future token prediction makes them do so (Walker 2024, arXiv 2410.18160)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.circuits.base import Analysis, Columns, Pairs
from pipeline.plots.base import Drawing

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark


@dataclass(frozen=True)
class Smoothness(Analysis):
    """Cosine between states of neighbouring tokens, by layer: `beside`; and between states of any two: `any`.

    `layer` counts the blocks before a state; the last one is the top state, after the final norm. Of each layer the
    mean over all prompts is taken off first, as what all states share says nothing of a text. Two states are any where
    they are of different prompts at random places. `smoothness` is how much of the way from any to the same one
    neighbours go, (beside - any) / (1 - any).
    """

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: object) -> Columns:
        import torch
        from torch.nn.functional import normalize

        from pipeline.circuits._batch import FLOATS, on_device, split
        from pipeline.utils.draws import Draws

        names = [f"blocks.{layer}.hook_resid_pre" for layer in range(hooks.n_layer)] + ["ln_final.hook_normalized"]
        length = pairs.clean.shape[1]
        parts = []
        for batch in split(on_device(hooks, pairs), len(names) * length * hooks.d_model, FLOATS // 2):
            found = hooks.read(batch.clean, names)[1]
            parts.append(torch.stack([found[name].float().cpu().double() for name in names]))
        state_LBTD = torch.cat(parts, 1)
        real_BT = torch.arange(length) < torch.from_numpy(pairs.lengths)[:, None]
        state_LND = state_LBTD[:, real_BT]
        unit_LBTD = normalize(state_LBTD - state_LND.mean(1)[:, None, None], dim=-1)
        beside_L = (unit_LBTD[:, :, 1:] * unit_LBTD[:, :, :-1]).sum(-1)[:, real_BT[:, 1:]].mean(1)
        unit_LND, row_N = unit_LBTD[:, real_BT], real_BT.nonzero()[:, 0]
        other_N = torch.from_numpy(Draws(self.seed, "other states").permutation(len(row_N)))
        differ_N = row_N != row_N[other_N]
        any_L = (unit_LND * unit_LND[:, other_N]).sum(-1)[:, differ_N].mean(1)
        smooth_L = (beside_L - any_L) / (1 - any_L)
        columns = {"beside": beside_L, "any": any_L, "smoothness": smooth_L}
        return {"layer": range(len(names)), **{name: column.tolist() for name, column in columns.items()}}

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.smoothness import draw_smoothness

        return draw_smoothness(table, marks)
