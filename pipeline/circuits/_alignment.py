"""Permutations of channels, heads and neurons that bring the weights of one model next to those of another.

A model computes the same with the channels of its residual stream, the heads of a layer and the neurons of an MLP in
another order. Ainsworth et al. 2023, "Git Re-Basin" (arXiv 2209.04836), section 3.2, finds the order by matching
weights, one kind of axis after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.circuits.hooks import Hooks
from pipeline.utils.errors import UnsupportedError

Weights = Mapping[str, Tensor]
Order = npt.NDArray[np.int64]
STREAM = "stream"
ROUNDS = 100


class Axis(NamedTuple):
    """A dimension of a weight, split into `shape`, of which the axis `at` is one of `kind` and may be reordered."""

    weight: str
    dim: int
    shape: tuple[int, ...]
    at: int
    kind: str

    def first(self, value: Tensor) -> Tensor:
        """The weight with this axis in front, (n, rest)."""
        split = value.unflatten(self.dim, self.shape)
        return split.movedim(self.dim + self.at, 0).flatten(1) if split.ndim > 1 else split[:, None]

    def reorder(self, value: Tensor, order: Order) -> Tensor:
        chosen = torch.from_numpy(order).to(value.device)
        split = value.unflatten(self.dim, self.shape).index_select(self.dim + self.at, chosen)
        return split.flatten(self.dim, self.dim + len(self.shape) - 1)


def axes_of(hooks: Hooks) -> list[Axis]:
    """All axes of a model's weights that can be reordered together with others of their kind.

    Within a head nothing is: rotary positions pair its dimensions.

    Raises:
        UnsupportedError: for a model with weights beside those of a GPT-2 or GPT-NeoX, and for a Llama.
    """
    names = {id(weight): name for name, weight in hooks.model.named_parameters()}
    found: list[Axis] = []

    def add(weight: Any, dim: int, kind: str, shape: tuple[int, ...] = (), at: int = 0) -> None:
        if weight is not None:
            found.append(Axis(names[id(weight)], dim, shape or (weight.shape[dim],), at, kind))

    def linear(module: Any, out: str, into: str, split_out: Any = (), split_in: Any = ()) -> None:
        rows = 0 if isinstance(module, nn.Linear) else 1  # GPT-2's Conv1D has its weight the other way round
        add(module.weight, rows, out, *split_out)
        add(module.weight, 1 - rows, into, *split_in)
        add(module.bias, 0, out, *split_out)

    def norm(module: Any) -> None:
        for name in ("weight", "bias"):
            add(getattr(module, name, None), 0, STREAM)

    base: Any = hooks.model.base_model
    for embedding in (getattr(base, hooks.family.embed), getattr(base, "wpe", None)):
        add(getattr(embedding, "weight", None), 1, STREAM)
    if not hooks.family.qkv:
        raise UnsupportedError(
            f"{type(hooks.model).__name__} is a {hooks.family.name}, whose order nothing is known of"
        )
    qkv = ((3, hooks.n_head, hooks.d_head), 1) if hooks.family.name == "GPT-2" else ((hooks.n_head, 3, hooks.d_head), 0)
    seen: set[int] = set()
    for layer, block in enumerate(hooks.blocks):
        if id(block) in seen:  # a looped model runs the same block again
            continue
        seen.add(id(block))
        heads, neurons = f"heads {layer}", f"neurons {layer}"
        norm(hooks.part(layer, "ln1"))
        norm(hooks.part(layer, "ln2"))
        linear(hooks.part(layer, "qkv"), heads, STREAM, split_out=qkv)
        linear(hooks.part(layer, "proj"), STREAM, heads, split_in=((hooks.n_head, hooks.d_head), 0))
        linear(hooks.part(layer, "mlp_in"), neurons, STREAM)
        linear(hooks.part(layer, "mlp_out"), STREAM, neurons)
    norm(hooks.final_norm)
    if names.get(id(hooks.head.weight)) not in {axis.weight for axis in found}:  # not tied
        add(hooks.head.weight, 1, STREAM)
    known = {axis.weight for axis in found}
    if odd := [name for name in names.values() if name not in known]:
        raise UnsupportedError(f"{type(hooks.model).__name__} has {odd[0]}, whose order nothing is known of")
    return found


def reordered(weights: Weights, axes: Sequence[Axis], orders: Mapping[str, Order]) -> dict[str, Tensor]:
    """The weights with each axis of these kinds in its new order."""
    found = dict(weights)
    for axis in axes:
        if axis.kind in orders:
            found[axis.weight] = axis.reorder(found[axis.weight], orders[axis.kind])
    return found


def align(axes: Sequence[Axis], to: Weights, weights: Weights) -> dict[str, Order]:
    """The order of each kind of axis in which weights are as near to others as can be, one kind after the other."""
    kinds = list(dict.fromkeys(axis.kind for axis in axes))
    alone = [axis for axis in axes if sum(other.weight == axis.weight for other in axes) == 1]
    # At first by embeddings and norms, which have no other axis that could be out of order.
    orders = {STREAM: best_order([axis for axis in alone if axis.kind == STREAM], to, weights)}
    for _ in range(ROUNDS):  # a few are enough, as the sum of products grows each time
        changed = False
        for kind in kinds[1:] + kinds[:1]:
            others = reordered(weights, axes, {other: order for other, order in orders.items() if other != kind})
            order = best_order([axis for axis in axes if axis.kind == kind], to, others)
            changed |= kind not in orders or not np.array_equal(order, orders[kind])
            orders[kind] = order
        if not changed:
            break
    return orders


def best_order(axes: Sequence[Axis], to: Weights, weights: Weights) -> Order:
    """The order of an axis that all of these share with the largest sum of products with other weights."""
    likeness: Any = 0
    for axis in axes:
        one, other = (axis.first(side[axis.weight].detach().cpu().double()) for side in (to, weights))
        likeness = likeness + one @ other.T
    return assignment(likeness.cpu().numpy())


def assignment(values: npt.NDArray[np.float64]) -> Order:
    """The column of each row of (n, n), all different, with the largest sum of values.

    By shortest augmenting paths (Jonker & Volgenant 1987), in n^3 steps.
    """
    n = len(values)
    cost = -values
    of_row, of_column = np.zeros(n + 1), np.zeros(n + 1)  # dual prices; row and column n stand for none
    row_of = np.full(n + 1, n)
    for row in range(n):
        column, row_of[n] = n, row
        least, before = np.full(n, np.inf), np.full(n, n)
        done = np.zeros(n + 1, bool)
        while True:
            done[column] = True
            reduced = cost[row_of[column]] - of_row[row_of[column]] - of_column[:n]
            nearer = ~done[:n] & (reduced < least)
            least[nearer], before[nearer] = reduced[nearer], column
            following = int(np.where(done[:n], np.inf, least).argmin())
            step = least[following]
            of_row[row_of[done]] += step
            of_column[done] -= step
            least[~done[:n]] -= step
            column = following
            if row_of[column] == n:
                break
        while column != n:
            row_of[column] = row_of[before[column]]
            column = int(before[column])
    return np.argsort(row_of[:n])
