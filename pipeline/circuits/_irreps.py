"""The irreducible representations of a finite group over the reals, from its table of products alone.

The matrix entries of a representation, as functions on the group, span a space that its character projects onto: no
matrix is needed. Characters are found as the common eigenvectors of all convolutions with class functions (Burnside;
see Isaacs 1976, "Character Theory of Finite Groups", chapter 3).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.utils.draws import Draws

Floats = npt.NDArray[np.float64]
Elements = npt.NDArray[np.int64]
SAME = 1e-10  # eigenvalues that are nearer than this, of the largest, are one


class Irrep(NamedTuple):
    """An irreducible real representation.

    `name` is its dimension and a letter, such as 4b; a pair of conjugate complex ones is one of twice the dimension.
    `kernel` (m,) holds a number for each element g; convolution with it, sum over h of kernel(g h^-1) f(h), projects
    functions f on the span of the matrix entries. `character` (m,) is the trace.
    """

    name: str
    degree: int
    kernel: Floats
    character: Floats


class Irreps:
    """All irreducible real representations of a group of m elements.

    Of one dimension they are ordered by their characters, larger ones first: 1a is the trivial one, 1b of a symmetric
    group the sign and its (n-1)a the standard one; 2a, 2b ... of cyclic and dihedral groups turn by 1, 2 ... steps.

    Args:
        product: The index of ab by those of a and b, (m, m).
    """

    def __init__(self, product: Elements):
        m = len(product)
        self.identity = int((product == np.arange(m)).all(axis=1).argmax())
        self.inverse = (product == self.identity).argmax(axis=1)
        self.quotient = product[:, self.inverse]  # g h^-1
        # A class is known by its smallest element.
        of_element = product[product, self.inverse[:, None]].min(axis=0)
        classes, index, sizes = np.unique(of_element, return_inverse=True, return_counts=True)
        weight = Draws(0, "class function").below(2**20, len(classes)) / np.sqrt(sizes)
        function = weight[index] + weight[index[self.inverse]]
        # Convolution with a class function, in the basis of the classes' indicators at norm 1: symmetric, as the
        # function is the same at g and g^-1. Its eigenspaces are spanned by a character and its conjugate.
        totals = np.zeros((len(classes), len(classes)))
        for k, element in enumerate(classes):
            totals[k] = np.bincount(index, function[self.quotient[element]], len(classes))
        totals *= np.sqrt(sizes)[:, None] / np.sqrt(sizes)
        values, vectors = np.linalg.eigh((totals + totals.T) / 2)
        starts = np.flatnonzero(np.diff(values, prepend=-np.inf) > SAME * np.abs(values).max())
        found = []
        for space in np.split(vectors, starts[1:], axis=1):
            # The identity's indicator is the sum of all kernels.
            kernel = (space @ space[index[self.identity]] / np.sqrt(sizes))[index]
            degree = round((kernel[self.identity] * m * space.shape[1]) ** 0.5)
            found.append((degree, kernel, kernel / kernel[self.identity] * degree))
        found.sort(key=lambda one: (one[0], tuple(-one[2][classes].round(6))))
        seen: dict[int, int] = {}
        self.irreps: list[Irrep] = []
        for degree, kernel, character in found:
            number = seen[degree] = seen.get(degree, -1) + 1
            self.irreps.append(Irrep(f"{degree}{letters(number)}", degree, kernel, character))

    def project(self, irrep: Irrep, values: Floats) -> Floats:
        """The part of functions on the group, (m, ...), in the span of a representation's matrix entries."""
        return np.tensordot(irrep.kernel[self.quotient], values, 1)


def letters(number: int) -> str:
    """a .. z, then aa, ab ..."""
    text = ""
    while number >= 0:
        text = chr(ord("a") + number % 26) + text
        number = number // 26 - 1
    return text
