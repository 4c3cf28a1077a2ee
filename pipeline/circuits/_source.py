"""Pairs of prompts that analyses look at, and what gives them."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.corpora.base import Ids
from pipeline.utils.draws import Numbers
from pipeline.utils.errors import MismatchError, ParameterError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = ("clean", "corrupted", "answers", "corrupted_answers")
PAIRS = b"groklab pairs"  # key of a table's metadata: further columns of the pairs that it was measured on
Corruption = Literal["any", "corpus"]


@dataclass(frozen=True)
class Pairs:
    """n clean prompts beside corrupted ones with another answer, of the same length in each pair; all as token ids.

    clean and corrupted are (n, P), padded on the right where `lengths` (n,) are less than P; answers and
    corrupted_answers are (n, A), of which analyses take the first token. `notes` name further tokens to look for, (n,)
    each, such as the bridge entity of a two-hop fact; `places` say what stands at each of the P positions; `metadata`
    are further columns of a file, n values each, which stay beside the table; `values` are numbers for each position of
    the clean prompts, (n, P) each.
    """

    clean: Ids
    corrupted: Ids
    answers: Ids
    corrupted_answers: Ids
    notes: Mapping[str, Ids] = field(default_factory=dict)
    lengths: Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    places: Sequence[str] = ()
    metadata: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    values: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        width = self.clean.shape[1] if self.clean.ndim == 2 else 0
        if not len(self.lengths):
            object.__setattr__(self, "lengths", np.full(len(self.clean), width, np.int64))
        if not self.places:
            object.__setattr__(self, "places", [str(i) for i in range(width)])
        shapes = {"corrupted": self.corrupted.shape == self.clean.shape, "places": len(self.places) == width}
        rows: dict[str, Any] = {"answers": self.answers, "corrupted_answers": self.corrupted_answers}
        rows |= {"lengths": self.lengths, **self.notes}
        rows |= {f"metadata {name}": values for name, values in self.metadata.items()}
        shapes |= {f"values {name}": part.shape == self.clean.shape for name, part in self.values.items()}
        shapes |= {name: len(part) == len(self.clean) for name, part in rows.items()}
        for name, fits in shapes.items():
            if not fits:
                raise MismatchError(f"pairs: {name} does not fit {len(self.clean)} prompts of {width} tokens")

    def __len__(self) -> int:
        return len(self.clean)

    def renamed(self, ids: Sequence[int] | Ids) -> Pairs:
        """The same pairs where token i is called ids[i]."""
        new = np.asarray(ids, dtype=np.int32)
        tokens = {name: new[getattr(self, name)] for name in TOKENS}
        return dataclasses.replace(self, **tokens, notes={name: new[note] for name, note in self.notes.items()})

    def take(self, rows: Any) -> Pairs:
        chosen = np.arange(len(self))[rows]
        parts = {name: getattr(self, name)[chosen] for name in (*TOKENS, "lengths")}
        notes = {name: note[chosen] for name, note in self.notes.items()}
        metadata = {name: [values[i] for i in chosen] for name, values in self.metadata.items()}
        values = {name: part[chosen] for name, part in self.values.items()}
        return dataclasses.replace(self, **parts, notes=notes, metadata=metadata, values=values)

    @property
    def where(self) -> Numbers:
        """The first position at which the prompts of each pair differ, (n,)."""
        return (self.clean != self.corrupted).argmax(axis=1)

    def check(self, model: PreTrainedModel) -> None:
        """Whether a model can read them.

        Raises:
            MismatchError: when there is none, or a token or position that the model does not have.
        """
        if not len(self):
            raise MismatchError("there is no pair of prompts to look at")
        vocabulary = model.config.vocab_size
        largest = max(int(part.max()) for part in (self.clean, self.corrupted, self.answers, self.corrupted_answers))
        if largest >= vocabulary:
            raise MismatchError(
                f"the prompts hold token {largest}, and the model has {vocabulary}: they are of another corpus"
            )
        longest = getattr(model.config, "max_position_embeddings", self.clean.shape[1])
        if self.clean.shape[1] > longest:
            raise MismatchError(f"the prompts have {self.clean.shape[1]} tokens, and the model {longest} positions")
        same = (self.clean == self.corrupted).all(axis=1)
        if same.any():
            raise MismatchError(f"pair {int(same.argmax())} does not differ between clean and corrupted")


class Source(abc.ABC):
    """Where pairs come from: a corpus, or a file."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are; none where all pairs are one."""
        return ()

    @abc.abstractmethod
    def pairs(
        self, split: str, most: int, seed: int, every_position: bool = False, corruption: Corruption = "corpus"
    ) -> Pairs:
        """At most so many pairs; for each position where prompts can be corrupted so many where that is asked for.

        `corruption`: prompts of the corpus, or any that the rule of its paper gives, where it has one.

        Raises:
            ParameterError: when there is no such split, or no pair in it.
        """

    def table(self) -> tuple[Ids, Ids, Numbers, int]:
        """Prompts (n, P) and answers (n, A) of a whole operation on Z_n, 1 where trained (n,), and n.

        Raises:
            ParameterError: when this is no such operation.
        """
        raise ParameterError("corpus", "is not the group Z_n with + or -, whose Fourier transform this looks at")

    def products(self) -> tuple[Ids, Ids, Numbers, Numbers]:
        """Prompts (n, P) and answers (n, A) of all products of a group, 1 where trained (n,), and its table (m, m).

        Raises:
            ParameterError: when this is no such operation.
        """
        raise ParameterError("corpus", "is not all products of a group, whose representations this looks at")

    def successors(self) -> Pairs:
        """Single tokens of ordered sets, whose answers follow them, with the metadata `set`.

        Raises:
            ParameterError: when there is no ordered set.
        """
        raise ParameterError("corpus", "has no ordered sets, such as weekdays; the corpus ordinals has")

    def drawn(self, split: str, most: int, seed: int) -> Pairs | None:
        """At most so many prompts of rows that a known law draws, with what it says of each position as `values`."""
        return None

    def prompts(self, split: str, most: int, seed: int) -> Pairs:
        """At most so many prompts of one length, with their answers, beside others that only have to differ.

        Raises:
            ParameterError: when there are not two that differ.
        """
        raise ParameterError("corpus", "has no prompts of one length")

    def classes(self, split: str, most: int, seed: int, names: Sequence[str] = ()) -> Pairs:
        """At most so many prompts of two classes, as many of each, beside prompts of the other class.

        The metadata `class` says which class a clean prompt is of; the first prompt is of the first class. `names`:
        answers, by their first word that differs between answers; none: the two that are most frequent.

        Raises:
            ParameterError: when there are no two such answers.
        """
        raise ParameterError("corpus", "has no classes of prompts")

    def language(self) -> Pairs:
        """All sentences of a language, each a clean prompt of its own length, with the metadata `split`.

        Raises:
            ParameterError: when they are not known.
        """
        raise ParameterError("corpus", "is no language with sentences that are all known; the corpus grammar is")

    def trees(self, split: str, most: int, seed: int) -> Pairs:
        """At most so many sentences, with their first token and the metadata `spans`: the parts of each, as JSON.

        Raises:
            ParameterError: when there are none.
        """
        raise ParameterError("corpus", "has no sentences with parts; question_formation, for one, has")

    def chains(self, split: str, most: int, seed: int, completions: int) -> Pairs:
        """Chains of steps, T + 1 times each: as prompts with 0 to T steps, which all chains have in the same order.

        Clean prompts ask for the right answer, corrupted ones for whether the chain ends right. The note `yes` is the
        answer to that, the metadata are `prefix`, how many steps are shown, `wrong_step`, the first that is wrong or
        0, and `completed`, the share of so many completions that end right. Of facts whose bridge is said, see
        `_said_bridges.said_pairs`.

        Raises:
            ParameterError: when there are no chains.
        """
        raise ParameterError(
            "corpus", "has no chains of steps; vector_chain has, and facts of two hops with bridge: said"
        )
