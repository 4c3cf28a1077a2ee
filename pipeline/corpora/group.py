"""Binary operations on a finite set, part of whose table is trained: the algorithmic tasks of Power et al. 2022.

Power et al. 2022, "Grokking" (arXiv 2201.02177), appendix A.1; modular addition as in Nanda et al. 2023 (arXiv
2301.05217); the operations as in the code of the former.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples, columns
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError
from pipeline.utils.suggest import did_you_mean

Elements = npt.NDArray[np.int64]

# Operations on Z_n, of two arrays and n; results are taken modulo n. The parity of a decides between a pair of them.
MODULAR: dict[str, Callable[[Elements, Elements, int], Elements]] = {
    "+": lambda a, b, n: a + b,
    "-": lambda a, b, n: a - b,
    "*": lambda a, b, n: a * b,
    "/": lambda a, b, n: a * inverses(n)[b],
    "x^2+y^2": lambda a, b, n: a**2 + b**2,
    "x^2+xy+y^2": lambda a, b, n: a**2 + a * b + b**2,
    "x^2+xy+y^2+x": lambda a, b, n: a**2 + a * b + b**2 + a,
    "x^3+xy": lambda a, b, n: a**3 + a * b,
    "x^3+xy^2+y": lambda a, b, n: a**3 + a * b**2 + b,
    "+*": lambda a, b, n: np.where(a % 2 == 0, a + b, a * b),
    "+-": lambda a, b, n: np.where(a % 2 == 0, a + b, a - b),
    "/-": lambda a, b, n: np.where(b % 2 == 1, a * inverses(n)[b], a - b),
}
# Operations on a group, of two arrays, the table of products and the inverses.
GROUP: dict[str, Callable[[Elements, Elements, Elements, Elements], Elements]] = {
    "*": lambda a, b, product, inverse: product[a, b],
    "aba": lambda a, b, product, inverse: product[product[a, b], a],
    "aba^-1": lambda a, b, product, inverse: product[product[a, b], inverse[a]],
}
MOST_ELEMENTS = 2520  # A7; its table has 6.4 million entries


class OperationTable(NamedTuple):
    """The names of m elements, their products (m, m) and inverses (m,), as indices."""

    names: list[str]
    product: Elements
    inverse: Elements


def inverses(n: int) -> Elements:
    """1 / b modulo n for each b; 0 where there is none."""
    return np.array([pow(b, -1, n) if np.gcd(b, n) == 1 and n > 1 else 0 for b in range(n)])


@dataclass(frozen=True)
class Group(Corpus):
    """a∘b = c for all pairs of elements, a share of which is trained.

    Splits: `train`, and `id`, the rest of the table.
    """

    group: str = param("Z97", "Z, C (cyclic), D (dihedral), S (symmetric) or A (alternating), then n: Z97, S5, D8")
    operation: str = param("+", f"on Z: {', '.join(MODULAR)}; on the others: {', '.join(GROUP)}")
    train_fraction: float = param(0.3, "share of the table that is trained", gt=0, lt=1)
    label_noise: float = param(0.0, "share of the trained answers that are replaced by another element", ge=0, lt=1)
    template: str = param("a op b = c", "tokens of an example, from a, b, op, c, = and eos; the answer begins after =")
    seed: int = param(0, "of the split and the noise", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {"group": "Z11", "train_fraction": 0.5, "template": "a b = c"}
    separator: ClassVar[str] = " "
    held_out = ("id",)
    citation: ClassVar[str] = "Power et al. 2022, arXiv 2201.02177"

    def __post_init__(self) -> None:
        super().__post_init__()
        kind, _ = self._kind
        operations = MODULAR if kind == "Z" else GROUP
        if self.operation not in operations:
            raise ParameterError(
                "operation", f"{self.operation!r} is not one on {self.group}{did_you_mean(self.operation, operations)}"
            )
        words = self.template.split()
        known = {"a", "b", "c", "=", "op", "eos"}
        wrong = [word for word in words if word not in known] or [word for word in "abc=" if words.count(word) != 1]
        if wrong or words.index("c") < words.index("=") or not {"a", "b"} <= set(words[: words.index("=")]):
            raise ParameterError(
                "template",
                f"{self.template!r} is not a and b, then =, then c, each once, with op and eos where you like",
            )

    @property
    def _kind(self) -> tuple[str, int]:
        match = re.fullmatch(r"([ZCDSA])(\d{1,9})", self.group)
        if not match:
            raise ParameterError(
                "group", f"{self.group!r} is not one of Z, C, D, S, A followed by a number, such as Z97 or S5"
            )
        kind, n = match[1], int(match[2])
        order = {"Z": n, "C": n, "D": 2 * n, "S": _factorial(n), "A": _factorial(n) // 2}[kind]
        least = {"Z": 2, "C": 2, "D": 3, "S": 2, "A": 3}[kind]
        if n < least or order > MOST_ELEMENTS:
            raise ParameterError(
                "group", f"{self.group} has {order:,} elements; n >= {least} and at most {MOST_ELEMENTS:,} elements"
            )
        return kind, n

    @functools.cached_property
    def elements(self) -> OperationTable:
        kind, n = self._kind
        if kind in "ZC":
            number = np.arange(n)
            names = [str(i) for i in number] if kind == "Z" else [f"r{i}" for i in number]
            return OperationTable(names, (number[:, None] + number) % n, -number % n)
        return dihedral(n) if kind == "D" else permutations(n, even=kind == "A")

    @property
    def cyclic_order(self) -> int | None:
        """n where this is a+b or a-b on Z_n, without noise, which Fourier transforms take apart; else None."""
        kind, n = self._kind
        plain = (kind == "Z" and self.operation in ("+", "-")) or (kind == "C" and self.operation == "*")
        return n if plain and not self.label_noise else None

    @property
    def product(self) -> Elements | None:
        """The table of products (m, m) where this is the product of a group, without noise; else None."""
        kind, _ = self._kind
        plain = self.operation == ("+" if kind == "Z" else "*")
        return self.elements.product if plain and not self.label_noise else None

    def places(self, length: int) -> list[str]:
        return self.template.split()[:length]

    def vocabulary(self) -> list[str]:
        # The names of the elements come first, so that token i is element i.
        names = self.elements.names
        signs = {"op": f"({self.operation})" if self.operation in names else self.operation, "=": "=", "eos": "<eos>"}
        return names + [sign for word, sign in signs.items() if word in self.template.split()]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        m = len(self.elements.names)
        a, b = (side.reshape(-1) for side in np.meshgrid(np.arange(m), np.arange(m), indexing="ij"))
        if self._kind[0] == "Z":
            if "/" in self.operation:
                has_quotient = np.gcd(b, m) == 1
                if self.operation == "/-":
                    has_quotient |= b % 2 == 0  # there it subtracts
                a, b = a[has_quotient], b[has_quotient]
            c = MODULAR[self.operation](a, b, m) % m
        else:
            c = GROUP[self.operation](a, b, self.elements.product, self.elements.inverse)
        draws = Draws(self.seed, "group split")
        order = draws.permutation(len(a))
        trained = round(self.train_fraction * len(a))
        if not 0 < trained < len(a):
            raise ParameterError("train_fraction", f"{self.train_fraction:g} of {len(a)} pairs leaves a split empty")
        train, held_out = order[:trained], order[trained:]
        noisy = train[draws.choose(trained, round(self.label_noise * trained))]
        c[noisy] = (c[noisy] + 1 + draws.below(m - 1, len(noisy))) % m
        return {"train": [self._examples(a, b, c, train)], "id": [self._examples(a, b, c, held_out)]}

    def _examples(self, a: Elements, b: Elements, c: Elements, rows: Elements) -> Examples:
        words = self.template.split()
        signs = [word for word in ("op", "=", "eos") if word in words]
        tokens: dict[str, Elements] = {"a": a[rows], "b": b[rows], "c": c[rows]}
        tokens |= {sign: np.array(len(self.elements.names) + i) for i, sign in enumerate(signs)}
        table = columns(*(tokens[word] for word in words))
        start = words.index("=") + 1
        return Examples(table[:, :start], table[:, start:], self.operation)


def _factorial(n: int) -> int:
    # Beyond 8! no group is allowed, so the true size of a vast one does not matter.
    return functools.reduce(lambda product, i: product * i, range(1, min(n, 20) + 1), 1)


def dihedral(n: int) -> OperationTable:
    """The symmetries of a regular n-gon: rotations r0 .. and reflections s0 .., with s_k = r_k s_0."""
    turn, flip = np.tile(np.arange(n), 2), np.repeat([0, 1], n)
    sign = np.where(flip[:, None] == 1, -1, 1)
    product = (turn[:, None] + sign * turn) % n + n * (flip[:, None] ^ flip)
    names = [f"r{i}" for i in range(n)] + [f"s{i}" for i in range(n)]
    return OperationTable(names, product, np.where(flip == 1, np.arange(2 * n), -turn % n))


def permutations(n: int, even: bool) -> OperationTable:
    """All (or all even) permutations of n things, named by where they send 0 .. n-1; ab applies a first, then b."""
    everything = np.array(list(itertools.permutations(range(n))))
    if even:
        pairs = itertools.combinations(range(n), 2)
        swaps = sum((everything[:, i] > everything[:, j]).astype(int) for i, j in pairs)
        everything = everything[swaps % 2 == 0]
    digits = n ** np.arange(n)
    codes = everything @ digits
    order = np.argsort(codes)

    def index(maps: Elements) -> Elements:
        return order[np.searchsorted(codes[order], maps @ digits)]

    # Row by row, since all products at once would take n times the memory.
    product = np.stack([index(everything[:, row]) for row in everything])
    names = ["".join(str(place) for place in row) for row in everything]
    return OperationTable(names, product, index(np.argsort(everything, axis=1)))
