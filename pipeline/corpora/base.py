"""What a corpus is: parameters, a closed vocabulary, and splits that are disjoint by construction and by proof.

An author writes `vocabulary()` and `splits()`. `corpora.store` does the rest: it streams the splits to Arrow, proves
the promises below for every corpus that is built, caches the result, and renders it as text.

- The same parameters give the same content hash on every machine, under every PYTHONHASHSEED and numpy version.
- No prompt of a held-out split stands in `train`, and every prompt of another split does.
- Every token is in the vocabulary, and every example has an answer.
- A pool of reserved tokens stands in the vocabulary that no example shows.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.config.fields import Parameters
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError

Ids = npt.NDArray[np.int32]
Span = tuple[int, int]  # the first and the last word of a part of a sentence
PAD = "<pad>"
SPECIALS = ["<mask>", "<sep>", "<a>", "</a>", "<q>", "</q>"]  # of every vocabulary that Wang et al. 2024 published


@dataclass(frozen=True)
class Examples:
    """Examples of one shape, as indices into the corpus's vocabulary.

    prompts (n, P) and answers (n, A) are int32 with P, A >= 1; `type` is the field's name for the kind of fact;
    `notes` are further tokens that a fact involves, (n,) each and -1 for none, such as its bridge entity.
    """

    prompts: Ids
    answers: Ids
    type: str
    notes: Mapping[str, Ids] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: Numbers | npt.NDArray[np.bool_] | slice) -> Examples:
        notes = {name: column[rows] for name, column in self.notes.items()}
        return Examples(self.prompts[rows], self.answers[rows], self.type, notes)


@dataclass(frozen=True)
class Corpus(Parameters, abc.ABC):
    """A synthetic reasoning corpus; subclasses are frozen dataclasses of parameters, one per file."""

    separator: ClassVar[str] = ""  # between tokens, when an example is written as text
    citation: ClassVar[str] = ""

    @property
    def held_out(self) -> tuple[str, ...]:
        """The splits that are disjoint from `train`; every other one is drawn from it. Override: `held_out = ...`.

        A run has generalized when `id` is learned, or else the first of them: it should be distributed as `train` is.
        """
        return ("id", "ood")

    @abc.abstractmethod
    def vocabulary(self) -> list[str]:
        """The tokens, each once; an example's integers index this list."""

    @abc.abstractmethod
    def splits(self) -> Mapping[str, Iterable[Examples]]:
        """Name -> blocks of examples, `train` among them.

        Raises:
            ParameterError: when the parameters ask for more than there is, such as a ratio beyond the pool.
        """

    def places(self, length: int) -> list[str]:
        """What stands at each position of a prompt of so many tokens, in a word; for the axes of figures."""
        return [str(position) for position in range(length)]

    def corrupt(self, examples: Examples, position: int, draws: Draws) -> tuple[Ids, Ids, npt.NDArray[np.bool_]] | None:
        """Replace the token at a position by one of its kind, by a rule of the corpus's paper; None: it has no rule.

        Corrupted prompts (n, P) need not be ones of the corpus; the first token of their answers (n, 1) is that of
        padding where there is none. The last array says for which prompts there is a replacement (n,).
        """
        return None

    def fingerprint(self) -> str:
        """What the content depends on besides the parameters: empty, or a hash of the files that are read."""
        return ""

    def tokens(self) -> list[str]:
        """The whole vocabulary: the author's, the padding token, and at least eight reserved tokens.

        The reserved tokens fill it up to a multiple of eight rows, the size that matrix units like.
        """
        used = [*self.vocabulary(), PAD]
        return used + [f"<reserved_{i}>" for i in range(8 + -len(used) % 8)]


@runtime_checkable
class Spanned(Protocol):
    """A corpus whose prompts have parts that may be left out."""

    def spans(self, prompts: Ids) -> Ids:
        """Number the parts of prompts (n, P), padded, of which each may be left out.

        Returns:
            For each token the number of its part, from 0 on, or -1 where it stays, as the question must; (n, P).
        """


@runtime_checkable
class Decidable(Protocol):
    """A corpus that can tell of changed prompts whether their answers still follow."""

    def is_answer(self, prompts: Ids, answers: Ids) -> npt.NDArray[np.bool_]:
        """Tell which answers (n, A) follow from prompts (n, P) of which parts were left out; both padded."""


@runtime_checkable
class Preferring(Protocol):
    """A corpus that has a wrong answer to each example."""

    def rejected(self, examples: Examples) -> Ids:
        """Say a wrong answer to each example, (n, A), for the objective `preference`."""


@runtime_checkable
class Contrasted(Protocol):
    """A corpus whose papers say how a prompt is corrupted so that another answer follows."""

    def contrasted(self, examples: Examples, draws: Draws) -> Examples:
        """Give each example's corrupted prompt, as long as its own, with an answer that is not its own."""


@runtime_checkable
class KnownLaw(Protocol):
    """A corpus whose rows are drawn by a law that is known, token after token, and by copying."""

    def law(self, rows: Ids) -> Mapping[str, npt.NDArray[np.float64]]:
        """Say by what the token after each but the last of rows (n, T) came, (n, T - 1) each; NaN where by neither.

        `active`: 1 where it is a copy, 0 where it was drawn; `surprise`: its loss if the law were known, in nats.
        """


@runtime_checkable
class Stepwise(Protocol):
    """A corpus whose prompts are chains of T steps towards an answer, some of which go wrong.

    `yes`: the token that says so where it is asked whether a chain ends right.
    """

    @property
    def yes(self) -> int: ...

    def prefixes(self, examples: Examples) -> list[Examples]:
        """Ask for the right answer before the first step, and after each: T + 1 times these examples."""

    def outcomes(self, examples: Examples) -> list[Examples]:
        """Ask at the same places, in as many tokens, whether the chain will end in the right answer."""

    def went_wrong(self, examples: Examples) -> Numbers:
        """Say which step of each chain is the first that is wrong, from 1 on, or 0 for none; (n,)."""

    def completed(self, examples: Examples, times: int, draws: Draws) -> npt.NDArray[np.float64]:
        """Continue each chain so many times from each place, as its writer would; give the share that ends right.

        Returns:
            For each chain, and each number of steps that were there: (n, T + 1).
        """


@runtime_checkable
class Criticizing(Protocol):
    """A corpus that can say in its own words what is wrong with an answer, and tell a right one."""

    def feedback(self, prompt: Sequence[int], draft: Sequence[int]) -> list[int] | None:
        """Write the prompt of a refiner: a draft of an answer and what is wrong with it; None where nothing is."""

    def is_right(self, prompt: Sequence[int], answer: Sequence[int]) -> bool:
        """Tell whether an answer is one that is wanted."""


@runtime_checkable
class Conceptual(Protocol):
    """A corpus of drawings of two tokens, one for each of two concepts, whose values are 0 or 1.

    `concepts` names them, `concept_places` says where the words for them stand in a prompt, and `concept_tokens` which
    tokens show the value 0, and the value 1, of each. Both at 1 are never trained.
    """

    @property
    def concepts(self) -> tuple[str, str]: ...
    @property
    def concept_places(self) -> tuple[int, int]: ...
    @property
    def concept_tokens(self) -> Sequence[tuple[Sequence[int], Sequence[int]]]: ...

    def prompts(self, values: tuple[int, int]) -> Ids:
        """Ask for a combination of values, at the same places whatever it is; (n, P)."""


@runtime_checkable
class Choosing(Protocol):
    """A corpus that asks for single words of its rows, among few."""

    def choices(self, examples: Examples) -> Mapping[str, tuple[npt.NDArray[np.bool_], Sequence[int]]]:
        """Say by name which tokens of rows (n, P + A) are asked for, and among which words."""


@runtime_checkable
class Parsed(Protocol):
    """A corpus of sentences whose parts may be known."""

    def trees(self, examples: Examples) -> tuple[Ids, list[list[Span]]]:
        """Give the sentence in each row, (n, 1 + T), after a first token, and its parts of several words, or none."""


def trained_count(ratio: float, atomic: int, pool: int) -> int:
    """How many inferred facts a ratio asks for, beside so many ID atomic facts and out of such a pool.

    Raises:
        ParameterError: when that is none, or more than there are.
    """
    wanted = round(ratio * atomic)
    if not 0 < wanted <= pool:
        most = math.floor(100 * pool / atomic) / 100
        raise ParameterError(
            "ratio", f"{ratio:g} asks for {wanted:,} inferred facts; allowed: 1 to {pool:,}, a ratio <= {most:g}"
        )
    return wanted


def draw_row(allowed: npt.NDArray[np.bool_], draws: Draws) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    """For each row (n, K) a column that is allowed, drawn uniformly (n,), and whether there is one (n,)."""
    found: npt.NDArray[np.bool_] = np.asarray(allowed.any(axis=1))
    return np.where(allowed, draws.uniform(*allowed.shape), -1.0).argmax(axis=1), found


def sample_examples(examples: Examples, cap: int, draws: Draws) -> Examples:
    """At most `cap` of the examples, drawn uniformly."""
    return examples.take(draws.choose(len(examples), min(cap, len(examples))))


def chunks(examples: Examples, rows: int = 1 << 20) -> Iterator[Examples]:
    """The examples in blocks, so that writing many of them needs little memory."""
    for start in range(0, len(examples), rows):
        yield examples.take(slice(start, start + rows))


def unique_rows(draw: Callable[[int, Draws], Ids], count: int, prompt: int, seed: int, purpose: str) -> Ids:
    """So many rows (count, T) of which no two have the same prompt, the first `prompt` tokens.

    Args:
        draw: Gives so many random rows.

    Raises:
        ParameterError: when rows that are new are hard to find.
    """
    rows = draw(count, Draws(seed, purpose, 0))
    for again in range(1, 20):
        _, first = np.unique(prompt_keys(rows[:, :prompt]), return_index=True)
        rows = rows[np.sort(first)]
        if len(rows) >= count:
            return rows[:count]
        rows = np.concatenate([rows, draw(2 * (count - len(rows)) + 16, Draws(seed, purpose, again))])
    raise ParameterError("train_rows", f"{count:,} different rows are asked for, and there are hardly {len(first):,}")


def columns(*parts: npt.ArrayLike) -> Ids:
    """Token columns side by side, (n, len(parts)); a scalar fills its column."""
    return np.stack(np.broadcast_arrays(*parts), axis=1).astype(np.int32)


def prompt_keys(prompts: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint64]:
    """A 64-bit key per prompt (n,): equal prompts have equal keys, and others practically never."""
    # Multiplication by an odd constant loses nothing modulo 2**64; the length goes in so that prefixes differ.
    keys = np.full(len(prompts), prompts.shape[1], np.uint64)
    for column in prompts.T:
        keys = (keys ^ (keys >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
        keys += column.astype(np.uint64) + np.uint64(1)
    return keys


def count_among(keys: npt.NDArray[np.uint64], others: npt.NDArray[np.uint64]) -> int:
    """How many of the keys stand among others, which are sorted and at least one."""
    return int((others[np.searchsorted(others, keys).clip(max=len(others) - 1)] == keys).sum())
