"""The eigenvectors of a bilinear MLP: how few of them give the answers (Pearce et al. 2024, sections 3 and 4).

Pearce et al. 2024, "Bilinear MLPs enable weight-based mechanistic interpretability" (arXiv 2410.08417).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pipeline.circuits.base import Analysis, Columns, Pairs
from pipeline.plots.base import Drawing

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from pipeline.circuits._bilinear import Bilinear
    from pipeline.circuits.hooks import Hooks
    from pipeline.plots.style import Mark

CHUNK = 1 << 23  # numbers at once


class _Read(NamedTuple):
    """What stands where the prompts end, float64 on the CPU. C tokens that are answers, N prompts."""

    inputs_ND: Tensor  # of the last MLP, after its norm
    output_ND: Tensor  # of the last MLP
    rest_NC: Tensor  # logits without what the last MLP adds
    scale_N1: Tensor  # what its additions are divided by in the final norm
    directions_CD: Tensor  # along which they count
    answer_N: Tensor  # which of the C


@dataclass(frozen=True)
class Eigen(Analysis):
    """Accuracy among the answers of the prompts where the last MLP is cut down to few terms for each answer.

    Along an answer's direction in the final norm and the unembedding, a bilinear MLP adds a sum over the eigenvectors
    of a symmetric matrix, value * (vector . x)^2. Kept are the `rank` with the largest eigenvalues (`eigenvectors`), or
    as many products of two neurons with the largest weights (`neurons`); the final norm divides as in the whole model.
    `spectrum` is the mean share of |eigenvalues| up to a rank, and `hosvd` that of the squared singular values of the
    interaction tensor, along whatever outputs. `error` is the largest difference of the sum over all eigenvectors from
    what the MLP adds, as a share of the largest addition.
    """

    only: ClassVar[tuple[str, ...]] = ("gpt2_bilinear",)
    needs_float32: ClassVar[bool] = True

    def measure(self, hooks: Hooks, pairs: Pairs, **shared: object) -> Columns:
        from pipeline.circuits._architectures import linear_weight
        from pipeline.circuits._bilinear import Bilinear

        layer = hooks.n_layer - 1
        mlp = Bilinear.of(*(linear_weight(hooks.part(layer, name)) for name in ("mlp_in", "mlp_out")))
        read = _read(hooks, pairs)
        values_CD, _ = eigen = mlp.eigen(read.directions_CD)
        rows: list[tuple[str, int, float | None, float | None]] = []
        off = largest = 0.0
        for part, count in {"eigenvectors": values_CD.shape[1], "neurons": len(mlp.left)}.items():
            ranks = _ranks(count)
            right = dict.fromkeys(ranks, 0)
            for chosen, terms_NCK in _terms(part, mlp, eigen, read):
                sums_NCK = terms_NCK.cumsum(-1)
                whole_NC = read.output_ND[chosen] @ read.directions_CD.T
                off = max(off, float((sums_NCK[..., -1] - whole_NC).abs().max()))
                largest = max(largest, float(whole_NC.abs().max()))
                for rank in ranks:
                    kept_NC = sums_NCK[..., rank - 1] if rank else sums_NCK[..., 0] * 0
                    logits_NC = read.rest_NC[chosen] + kept_NC / read.scale_N1[chosen]
                    right[rank] += int((logits_NC.argmax(1) == read.answer_N[chosen]).sum())
            rows += [(part, rank, right[rank] / len(pairs), None) for rank in ranks]
        squares = mlp.hosvd()[0].square()
        shares = {"spectrum": (values_CD.abs() / values_CD.abs().sum(1, keepdim=True)).mean(0)}
        shares["hosvd"] = squares / squares.sum()
        for part, share in shares.items():
            rows += [(part, rank, None, float(share[:rank].sum())) for rank in _ranks(len(share))]
        columns = {name: [row[i] for row in rows] for i, name in enumerate(("part", "rank", "accuracy", "share"))}
        return {
            **{name: columns[name] for name in ("part", "rank")},
            **{name: [float("nan") if v is None else v for v in columns[name]] for name in ("accuracy", "share")},
            "error": [off / largest] * len(rows),
        }

    def draw(self, table: pa.Table, marks: Sequence[Mark] = ()) -> dict[str, Drawing]:
        from pipeline.plots.ranks import draw_ranks

        return draw_ranks(table)


def _ranks(count: int) -> list[int]:
    """0, the powers of two below a count, and the count."""
    return [0, *(2**i for i in range(count.bit_length()) if 2**i < count), count]


def _read(hooks: Hooks, pairs: Pairs) -> _Read:
    import torch

    from pipeline.circuits._batch import on_device

    at = f"blocks.{hooks.n_layer - 1}."
    names = [f"{at}ln2.hook_normalized", f"{at}hook_mlp_out", f"{at}hook_resid_post"]
    batch = on_device(hooks, pairs)
    _, found = hooks.read(batch.clean, names)
    rows = torch.arange(len(pairs), device=batch.last.device)
    inputs, output, stream = (found[name][rows, batch.last].cpu().double() for name in names)
    norm, head = hooks.final_norm, hooks.head
    tokens_C, answer_N = batch.answer.cpu().unique(return_inverse=True)
    unembed_CD = head.weight.detach().cpu().double()[tokens_C]
    weighted_CD = unembed_CD * norm.weight.detach().cpu().double()
    # What is added to the stream counts without its mean, divided by the stream's deviation.
    directions_CD = weighted_CD - weighted_CD.mean(1, keepdim=True)
    scale_N1 = (stream.var(1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    constant_C = unembed_CD @ norm.bias.detach().cpu().double()
    if head.bias is not None:
        constant_C = constant_C + head.bias.detach().cpu().double()[tokens_C]
    rest_NC = (stream - output) @ directions_CD.T / scale_N1 + constant_C
    return _Read(inputs, output, rest_NC, scale_N1, directions_CD, answer_N)


def _terms(part: str, mlp: Bilinear, eigen: tuple[Tensor, Tensor], read: _Read) -> Iterator[tuple[slice, Tensor]]:
    """Some prompts at a time, and what each term adds along each direction, the strongest first, (n, C, K)."""
    from pipeline.circuits._bilinear import terms

    strength_CM = read.directions_CD @ mlp.out
    size_M = mlp.left.norm(dim=1) * mlp.right.norm(dim=1)
    order_CM = (strength_CM.abs() * size_M).argsort(dim=1, descending=True, stable=True)
    each = strength_CM.numel() if part == "neurons" else eigen[1].shape[0] * eigen[1].shape[1]
    count = max(CHUNK // each, 1)
    for start in range(0, len(read.inputs_ND), count):
        chosen = slice(start, start + count)
        inputs_ND = read.inputs_ND[chosen]
        if part == "eigenvectors":
            yield chosen, terms(*eigen, inputs_ND)
        else:
            products_NM = (inputs_ND @ mlp.left.T) * (inputs_ND @ mlp.right.T)
            terms_NCM = products_NM[:, None] * strength_CM
            yield chosen, terms_NCM.gather(2, order_CM.expand_as(terms_NCM))
