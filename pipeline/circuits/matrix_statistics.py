"""Of weights, their gradients and activations on one probe batch: rank, sparsity and condition, step by step.

The measures of pico-analyze (Diehl Martinez et al. 2025, arXiv 2509.16413). Effective rank: Roy & Vetterli 2007; Gini
and Hoyer: Hurley & Rickard 2009, "Comparing Measures of Sparsity" (arXiv 0811.4706).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.circuits.base import Analysis, Columns, Pairs, Source
from pipeline.config.fields import param
from pipeline.plots.base import Drawing

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

Floats = npt.NDArray[np.float64]
WEIGHT, GRADIENT, ACTIVATION, GRAM = "weight", "gradient", "activation", "gram"
NONE = -1  # in the place of a layer, a row or a column
NAMES = ("kind", "component", "layer", "measure", "row", "column", "value")
PARTS = {
    "attention in": "qkv", "queries": "q", "keys": "k", "values": "v", "attention out": "proj", "MLP in": "mlp_in",
    "MLP gated": "mlp_up", "MLP out": "mlp_out",
}  # fmt: skip
POINTS = {"attention": "hook_attn_out", "MLP": "hook_mlp_out", "stream": "hook_resid_post"}


@dataclass(frozen=True)
class MatrixStatistics(Analysis):
    """Statistics of matrices: weights, gradients of the mean loss of a probe batch, and activations on that batch.

    Of a matrix with singular values s: `effective rank` is the exponential of the entropy of s / sum(s), `proportional
    rank` that over the smaller side, `condition` the largest over the smallest s, null where that is 0, `norm` is
    Frobenius's. `Gini` and `Hoyer` are of the sizes of its entries, 0 where all are alike and near 1 where few are not
    0. `OV` is what all heads of a block make of the stream, W_O W_V. Activations are those of the last position, a row
    for each prompt; `gram` holds the inner products of their centred rows, over the norm of all, of which the analysis
    `cka` makes the similarity of steps and runs. The probe batch stays beside each table, as its metadata.
    """

    pairs: int = param(64, "prompts of the probe batch", ge=2, le=512)

    def choose(self, source: Source) -> Pairs:
        found = source.prompts(self.split, self.pairs, self.seed)
        probe = {"probe": found.clean.tolist(), "answer": found.answers.tolist()}
        return dataclasses.replace(found, metadata={**found.metadata, **probe})

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: Any) -> Columns:
        rows: list[tuple[str, str, int, str, int, int, float]] = []
        for kind, component, layer, matrix in self._matrices(hooks, pairs):
            for measure, value in statistics(matrix).items():
                rows.append((kind, component, layer, measure, NONE, NONE, value))
            if kind == ACTIVATION:
                products = gram(matrix)
                for i, j in zip(*np.tril_indices(len(products))):
                    rows.append((GRAM, component, layer, "product", int(i), int(j), float(products[i, j])))
        return {name: [row[i] for row in rows] for i, name in enumerate(NAMES)}

    def _matrices(self, hooks: Hooks, pairs: Pairs) -> Iterator[tuple[str, str, int, Floats]]:
        """Kind, component, layer and matrix, one after the other."""
        import torch

        from pipeline.circuits._architectures import linear_weight
        from pipeline.circuits._batch import on_device

        model: Any = hooks.model
        modules = {("embedding", NONE): model.get_input_embeddings(), ("unembedding", NONE): hooks.head}
        if hooks.head.weight is model.get_input_embeddings().weight:
            del modules["unembedding", NONE]
        layers = [layer for layer in range(hooks.n_layer) if hooks.blocks[layer] not in hooks.blocks[:layer]]
        for layer in layers:
            modules |= {(name, layer): hooks.part(layer, part) for name, part in PARTS.items() if hooks.has(part)}
        for (name, layer), module in modules.items():
            weight = module.weight if isinstance(module, torch.nn.Embedding) else linear_weight(module)
            yield WEIGHT, name, layer, _array(weight)
        for layer in layers:
            value, out = hooks.in_weight(layer)[2], hooks.out_weight(layer)  # (H, E, D) each
            yield WEIGHT, "OV", layer, _array(torch.einsum("hed,hef->fd", out.detach(), value.detach()).T)
        batch = on_device(hooks, pairs)
        known = {place: module.weight for place, module in modules.items() if module.weight.requires_grad}
        with torch.enable_grad():
            logits = hooks.run(batch.clean)[torch.arange(len(batch)), batch.last].float()
            loss = torch.nn.functional.cross_entropy(logits, batch.answer)
            slopes = torch.autograd.grad(loss, list(known.values()), allow_unused=True)
        for (name, layer), slope in zip(known, slopes):
            if slope is not None:
                yield GRADIENT, name, layer, _array(slope)
        names = {f"blocks.{layer}.{point}": (name, layer) for layer in layers for name, point in POINTS.items()}
        _, found = hooks.read(batch.clean, names)
        for point, (name, layer) in names.items():
            yield ACTIVATION, name, layer, _array(found[point][torch.arange(len(batch)), batch.last])

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.matrix_statistics import draw_statistics

        return draw_statistics(table, marks)


def _array(matrix: Tensor) -> Floats:
    return np.asarray(matrix.detach().cpu().double().numpy(), np.float64)


def statistics(matrix: Floats) -> dict[str, float]:
    """The measures of a matrix (n, m); NaN where it is 0 everywhere, or where one has no meaning."""
    singular = np.linalg.svd(matrix, compute_uv=False)
    sizes = np.sort(np.abs(matrix).ravel())
    total, count = sizes.sum(), sizes.size
    if total == 0:
        return {
            **dict.fromkeys(("effective rank", "proportional rank", "condition", "Gini", "Hoyer"), np.nan),
            "norm": 0.0,
        }
    share = singular[singular > 0] / singular.sum()
    rank = float(np.exp(-(share * np.log(share)).sum()))
    root = np.sqrt(count)
    return {
        "effective rank": rank,
        "proportional rank": rank / len(singular),
        "condition": float(singular[0] / singular[-1]) if singular[-1] > 0 else np.nan,
        "Gini": float(((2 * np.arange(1, count + 1) - count - 1) * sizes).sum() / (count * total)),
        "Hoyer": float((root - total / np.linalg.norm(sizes)) / (root - 1)) if count > 1 else np.nan,
        "norm": float(np.linalg.norm(sizes)),
    }


def gram(rows: Floats) -> Floats:
    """Inner products of centred rows, (n, n), divided by their Frobenius norm; zeros where all rows are alike."""
    centred = rows - rows.mean(axis=0)
    found = centred @ centred.T
    size = np.linalg.norm(found)
    return np.asarray(found / size if size > 1e-12 * (rows**2).sum() else np.zeros_like(found), np.float64)
