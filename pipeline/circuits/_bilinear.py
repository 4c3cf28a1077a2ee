"""Bilinear MLPs as quadratic forms (Pearce et al. 2024, arXiv 2410.08417, section 3).

Names carry shapes: C directions of the output, M products, D width of the input, N inputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Bilinear(NamedTuple):
    """x -> P ((W x) * (V x)): left W and right V, (M, D) each, and out P, (D', M)."""

    left: Tensor
    right: Tensor
    out: Tensor

    @classmethod
    def of(cls, mlp_in: Tensor, mlp_out: Tensor) -> Bilinear:
        """From the weights of both maps as (out, in), with W and V below each other; in float64."""
        left, right = mlp_in.detach().cpu().double().chunk(2)
        return cls(left, right, mlp_out.detach().cpu().double())

    def interactions(self, directions_CD: Tensor) -> Tensor:
        """The symmetric Q of each direction u, (C, D, D): u . output = x Q x for every input x."""
        strength_CM = directions_CD @ self.out
        both = torch.einsum("cm,mi,mj->cij", strength_CM, self.left, self.right)
        return (both + both.mT) / 2

    def eigen(self, directions_CD: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues (C, D), the largest in size first, and eigenvectors (C, D, D), one a row, of `interactions`."""
        values_CD, vectors_CDD = torch.linalg.eigh(self.interactions(directions_CD))
        order_CD = values_CD.abs().argsort(dim=-1, descending=True, stable=True)
        return values_CD.gather(1, order_CD), vectors_CDD.mT.gather(1, order_CD[..., None].expand_as(vectors_CDD))

    def hosvd(self) -> tuple[Tensor, Tensor]:
        """Singular values (D',) of the symmetric interaction tensor, unfolded along its output, and their directions.

        The tensor, of D' D D numbers, is not formed: products of its slices are those of the M pairs of rows.
        Directions are rows (D', D'), each of norm 1.
        """
        within = self.left @ self.left.T * (self.right @ self.right.T)
        across = self.left @ self.right.T * (self.right @ self.left.T)
        squares, vectors = torch.linalg.eigh(self.out @ ((within + across) / 2) @ self.out.T)
        return squares.flip(0).clamp(min=0).sqrt(), vectors.T.flip(0)


def terms(values_CD: Tensor, vectors_CDD: Tensor, inputs_ND: Tensor) -> Tensor:
    """What each eigenvector adds to u . output, value * (vector . x)^2, (N, C, D)."""
    return values_CD * torch.einsum("cki,ni->nck", vectors_CDD, inputs_ND).square()
