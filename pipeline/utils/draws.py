"""Random choices that are the same on every machine and under every version of numpy."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


class Draws:
    """Random choices that stay the same for ever, one independent stream per purpose, seed, and place such as an epoch.

    numpy promises a stable bit stream for PCG64 but not for the methods of Generator, so those are not used.
    """

    def __init__(self, seed: int, purpose: str, *place: int):
        digest = hashlib.sha256("/".join(map(str, (purpose, seed, *place))).encode()).digest()
        self.bits = np.random.PCG64(int.from_bytes(digest, "little"))

    def _raw(self, count: int) -> npt.NDArray[np.uint64]:
        if count > 2**40:  # numpy would say so too, but for numbers near 2**63 not as a lack of memory
            raise MemoryError(f"{count:,} random numbers at once")
        return self.bits.random_raw(count)

    def uniform(self, *shape: int) -> npt.NDArray[np.float64]:
        """Return numbers in [0, 1) with 53 random bits."""
        return ((self._raw(math.prod(shape)) >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def below(self, bound: int | Numbers, *shape: int) -> Numbers:
        """Return whole numbers in [0, bound), of which there may be one for each."""
        return (self.uniform(*shape) * bound).astype(np.int64)

    def permutation(self, n: int) -> Numbers:
        """Return the numbers in [0, n) in random order."""
        return np.argsort(self._raw(n), kind="stable")

    def choose(self, n: int, k: int) -> Numbers:
        """k distinct numbers in [0, n), in random order; k <= n."""
        if 4 * k >= n:
            return self.permutation(n)[:k]
        chosen = np.empty(0, np.int64)
        while len(chosen) < k:
            drawn = np.concatenate([chosen, self.below(n, k + k // 8 + 16)])
            _, first = np.unique(drawn, return_index=True)
            chosen = drawn[np.sort(first)]
        return chosen[:k]
