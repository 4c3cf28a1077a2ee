"""Five operations on a vector, one of which may go wrong (Ton et al. 2024, arXiv 2411.11984, section 5.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples, Ids
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError

SIZE, STEPS = 5, 5  # numbers of a vector, operations
DIGITS = 6  # of a whole number; none of those that come up has more
WHOLE = 100  # whole numbers begin below it
LIMIT = 150  # of the paper: the third step goes wrong where the third number before it is larger


@dataclass(frozen=True)
class VectorChain(Corpus):
    """`x0 || x1 || ... || x5 #|> y`: each vector follows from the one before it, and y is where x0 leads without fault.

    One step may go wrong, always the same one; the steps after it are right for what they are given. A fault of step 2
    or 3 adds a number of 10 to 99 to each entry, one of the others shuffles the vector; one that changes nothing is
    none. Chains of `train` and of `id` begin with different vectors.
    """

    modulus: int | None = param(
        11, "all numbers are modulo it, a token each; null: whole numbers in six digits, as in the paper", ge=2, le=1000
    )
    faulty_step: int = param(3, "the step that may go wrong, 1 to 5; 0: none does", ge=0, le=STEPS)
    fault: Literal["random", "conditional"] = param(
        "random", "it goes wrong in half of the chains, or where the third number before it is above a limit"
    )
    limit: int | None = param(None, "of a conditional fault; null: half of the modulus, or 150 of whole numbers", ge=0)
    train_size: int = param(50_000, "chains that are trained", ge=1)
    test_size: int = param(2000, "chains of id", ge=1)
    seed: int = param(0, "of the vectors and faults", ge=0)

    tiny_values: ClassVar[Mapping[str, Any]] = {"train_size": 300, "test_size": 60}
    separator: ClassVar[str] = " "
    held_out = ("id",)
    citation: ClassVar[str] = "Ton et al. 2024, arXiv 2411.11984"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None and self.fault != "conditional":
            raise ParameterError("limit", "is of fault: conditional")
        if self.train_size + self.test_size > (most := self._below**SIZE):
            raise ParameterError(
                "train_size", f"{self.train_size:,} and {self.test_size:,} are more than {most:,} vectors"
            )

    @property
    def _below(self) -> int:
        return self.modulus or WHOLE

    @property
    def _base(self) -> int:
        """How many tokens stand for numbers."""
        return self.modulus or 10

    @property
    def _width(self) -> int:
        """Tokens of a vector."""
        return SIZE if self.modulus else SIZE * DIGITS

    def vocabulary(self) -> list[str]:
        return [*map(str, range(self._base)), "||", "#|>", "ok?", "yes", "no"]

    @property
    def _words(self) -> tuple[int, int, int, int, int]:
        """The tokens that are no numbers: between vectors, before y, before whether the chain leads there, yes, no."""
        between, before, asks, yes, no = range(self._base, self._base + 5)
        return between, before, asks, yes, no

    @property
    def yes(self) -> int:
        return self._words[3]

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        first = Draws(self.seed, "first vectors").choose(self._below**SIZE, self.train_size + self.test_size)
        vectors = first[:, None] // self._below ** np.arange(SIZE) % self._below
        parts = {"train": vectors[: self.train_size], "id": vectors[self.train_size :]}
        return {split: self._chains(part, Draws(self.seed, f"faults of {split}")) for split, part in parts.items()}

    def _chains(self, vectors: Numbers, draws: Draws) -> list[Examples]:
        """The chains that begin with these vectors (n, 5): those that stay right, and those that go wrong."""
        chains, wrong = self._continued(vectors, 0, draws)
        prompts = self._prompts(chains)
        answers = self._tokens(self._answers(vectors))
        kinds = {"right": wrong == 0, "wrong": wrong > 0}
        return [Examples(prompts[rows], answers[rows], kind) for kind, rows in kinds.items() if rows.any()]

    def _continued(self, vectors: Numbers, done: int, draws: Draws) -> tuple[Numbers, Numbers]:
        """What becomes of vectors (n, 5) after so many steps: all vectors from there on (n, 6 - done, 5), and the
        number of the step that went wrong (n,), 0 for none."""
        found, wrong = [vectors], np.zeros(len(vectors), np.int64)
        for step in range(done + 1, STEPS + 1):
            right = self._reduced(operation(step, found[-1]))
            following = right
            if step == self.faulty_step:
                fails = draws.uniform(len(right)) < 0.5 if self.fault == "random" else found[-1][:, 2] > self._limit
                following = np.where(fails[:, None], self._reduced(mistaken(step, right, draws)), right)
            wrong[(following != right).any(1)] = step
            found.append(following)
        return np.stack(found, 1), wrong

    def _reduced(self, vectors: Numbers) -> Numbers:
        return vectors % self.modulus if self.modulus else vectors

    @property
    def _limit(self) -> int:
        usual = self.modulus // 2 if self.modulus else LIMIT
        return usual if self.limit is None else self.limit

    def _answers(self, vectors: Numbers) -> Numbers:
        """Where vectors (n, 5) lead when no step goes wrong."""
        for step in range(1, STEPS + 1):
            vectors = self._reduced(operation(step, vectors))
        return vectors

    def _tokens(self, vectors: Numbers) -> Ids:
        """Vectors (..., 5) as tokens (..., 5), or (..., 30) where they are whole numbers."""
        if self.modulus:
            return vectors.astype(np.int32)
        digits = vectors[..., None] // 10 ** np.arange(DIGITS - 1, -1, -1) % 10
        return digits.reshape(*vectors.shape[:-1], -1).astype(np.int32)

    def _prompts(self, chains: Numbers) -> Ids:
        """Chains (n, 6, 5) as prompts, each vector with what stands behind it."""
        between, before, *_ = self._words
        ends = np.full(chains.shape[1], between)
        ends[-1] = before
        tokens = self._tokens(chains)
        rows = np.concatenate([tokens, np.broadcast_to(ends[None, :, None], (*tokens.shape[:2], 1))], axis=2)
        return rows.reshape(len(rows), -1).astype(np.int32)

    def _vectors(self, prompts: Ids) -> Numbers:
        """The chains (n, 6, 5) of prompts."""
        tokens = prompts.reshape(len(prompts), STEPS + 1, -1)[:, :, :-1].astype(np.int64)
        if self.modulus:
            return tokens
        return tokens.reshape(*tokens.shape[:2], SIZE, DIGITS) @ 10 ** np.arange(DIGITS - 1, -1, -1)

    def places(self, length: int) -> list[str]:
        ends = {self._width: "end"}
        return [
            f"x{place // (self._width + 1)} {ends.get(at := place % (self._width + 1), at)}" for place in range(length)
        ]

    def prefixes(self, examples: Examples) -> list[Examples]:
        return [self._cut(examples, done, self._words[1], examples.answers) for done in range(STEPS + 1)]

    def outcomes(self, examples: Examples) -> list[Examples]:
        _, _, asks, yes, no = self._words
        arrives = (self._tokens(self._vectors(examples.prompts)[:, -1]) == examples.answers).all(1)
        answers = np.where(arrives, yes, no)[:, None].astype(np.int32)
        return [self._cut(examples, done, asks, answers) for done in range(STEPS + 1)]

    def _cut(self, examples: Examples, done: int, end: int, answers: Ids) -> Examples:
        prompts = examples.prompts[:, : (done + 1) * (self._width + 1)].copy()
        prompts[:, -1] = end
        return Examples(prompts, answers, examples.type, examples.notes)

    def went_wrong(self, examples: Examples) -> Numbers:
        chains = self._vectors(examples.prompts)
        wrong = [
            (chains[:, step] != self._reduced(operation(step, chains[:, step - 1]))).any(1)
            for step in range(1, STEPS + 1)
        ]
        return np.where(np.any(wrong, axis=0), np.argmax(wrong, axis=0) + 1, 0)

    def completed(self, examples: Examples, times: int, draws: Draws) -> npt.NDArray[np.float64]:
        chains = np.repeat(self._vectors(examples.prompts), times, axis=0)
        answers = np.repeat(examples.answers, times, axis=0)
        found = []
        for done in range(STEPS + 1):
            ends = self._continued(chains[:, done], done, draws)[0][:, -1]
            found.append((self._tokens(ends) == answers).all(1).reshape(-1, times).mean(1))
        return np.stack(found, axis=1)


def operation(step: int, vectors: Numbers) -> Numbers:
    """What a step, 1 to 5, makes of vectors (n, 5)."""
    a, b, c, d, e = vectors.T
    if step == 4:
        s = np.sort(vectors, axis=1).T
        return np.stack([s[1] * s[2], s[0] * s[3], s[0] * s[4], s[2] * s[2], s[4]], 1)
    following = {
        1: (b, a, d, c, e), 2: (a, a + b, a + b + c, e, d), 3: (c, b, a, d, d + e), 5: (abs(a - b), c, d, abs(d - e), a)
    }  # fmt: skip
    return np.stack(following[step], 1)


def mistaken(step: int, right: Numbers, draws: Draws) -> Numbers:
    """What a step that goes wrong makes in the place of the right vectors (n, 5)."""
    if step in (2, 3):
        return right + 10 + draws.below(90, *right.shape)
    return np.take_along_axis(right, np.argsort(draws.uniform(*right.shape), axis=1), 1)
