"""Rows whose prompts are changed anew in every update.

They are written into room on the device for two updates, and what is trained are the numbers of places in this room: so
loops, forwards and graphs of updates take them as any other rows. Every process writes all rows of an update, though it
trains its share of them, since a change is drawn for the update as a whole.

Tensor names carry their shape: N rows of the corpus, R places of the room, B rows of an update, P and A words of a
prompt and of an answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.corpora.base import PAD, Ids, prompt_keys
from pipeline.corpora.store import StoredCorpus
from pipeline.data.buckets import Shape
from pipeline.data.rows import RowOrder, Rows, load_rows
from pipeline.utils.draws import Numbers


class Prompts(NamedTuple):
    """Prompts in the words of a corpus, tokens (B, P), of which the first `length` (B,) count; the rest is padding.

    With their answers (B, A), padded too.
    """

    tokens: Ids
    length: Numbers
    answers: Ids


class PromptSource:
    """The training rows of a corpus, and what is trained in their place in an update.

    `change` gives the prompts of an update, by its number; `trained` says what of rows is trained, in the tokens of the
    model.
    """

    def __init__(
        self,
        stored: StoredCorpus,
        ids: Sequence[int],
        change: Callable[[Prompts, int], Prompts],
        trained: Callable[[Rows], Rows],
    ):
        self.rows = load_rows(stored, "train")
        self.pad = stored.tokens.index(PAD)
        self._ids, self._change, self._trained = ids, change, trained
        prompts = [block.prompts for split in stored.held_out for block in stored.blocks(split)]
        lengths = {block.shape[1] for block in prompts}
        self._held_out = {
            length: np.sort(np.concatenate([prompt_keys(block) for block in prompts if block.shape[1] == length]))
            for length in lengths
        }

    def plain(self, index_B: torch.Tensor) -> Rows:
        """These rows as they are, as they would be trained."""
        rows = self.rows
        return self._as_trained(Rows(rows.tokens_NT[index_B], rows.prompt_N[index_B], rows.answer_N[index_B]))

    def changed(self, index_B: torch.Tensor, update: int) -> Rows:
        """What is trained in the place of these rows, of all processes, in an update."""
        tokens_BT = self.rows.tokens_NT[index_B].numpy()
        prompt_B, answer_B = (part[index_B].numpy() for part in (self.rows.prompt_N, self.rows.answer_N))
        place_P, step_A = np.arange(prompt_B.max()), np.arange(answer_B.max())
        tokens_BP = np.where(place_P < prompt_B[:, None], tokens_BT[:, : len(place_P)], self.pad)
        stop = tokens_BT.shape[1] - 1
        answers_BA = np.take_along_axis(tokens_BT, np.minimum(prompt_B[:, None] + step_A, stop), 1)
        is_answer_BA = step_A < answer_B[:, None]
        before = Prompts(tokens_BP, prompt_B, np.where(is_answer_BA, answers_BA, self.pad))
        after = self._change(before, update)
        kept_B = ~self._is_held_out(after)
        length_B = np.where(kept_B, after.length, before.length)
        found_BT = np.full_like(tokens_BT, self.pad)
        shown = np.where(kept_B[:, None], after.tokens, before.tokens)
        found_BT[:, : len(place_P)] = np.where(place_P < length_B[:, None], shown, self.pad)
        rows_BA = np.broadcast_to(np.arange(len(tokens_BT))[:, None], is_answer_BA.shape)
        places_BA = length_B[:, None] + step_A
        found_BT[rows_BA[is_answer_BA], places_BA[is_answer_BA]] = before.answers[is_answer_BA]
        return self._as_trained(Rows(*map(torch.from_numpy, (found_BT, length_B, answer_B))))

    def _as_trained(self, rows: Rows) -> Rows:
        return self._trained(rows.renamed(self._ids))

    def _is_held_out(self, prompts: Prompts) -> Any:
        """Which prompts (B,) are those of a held-out split."""
        found_B = np.zeros(len(prompts.tokens), bool)
        for length, keys in self._held_out.items():
            same_length = np.flatnonzero(prompts.length == length)
            if len(same_length):
                ours = prompt_keys(prompts.tokens[same_length, :length])
                found_B[same_length] = keys[np.searchsorted(keys, ours).clip(max=len(keys) - 1)] == ours
        return found_B


@dataclass(frozen=True)
class Augmented(Rows):
    """The room for two updates of a source, and the number of rows in an update."""

    source: PromptSource
    batch: int

    @staticmethod
    def of(source: PromptSource, batch: int) -> Augmented:
        """Room that holds the first rows of the source as they are, until an update takes its place."""
        first = source.plain(torch.arange(2 * batch) % len(source.rows))
        return Augmented(first.tokens_NT, first.prompt_N, first.answer_N, source, batch)

    def __len__(self) -> int:
        return len(self.source.rows)

    def to(self, device: torch.device) -> Augmented:
        moved = super().to(device)
        return dataclasses.replace(self, tokens_NT=moved.tokens_NT, prompt_N=moved.prompt_N, answer_N=moved.answer_N)

    @cached_property
    def shape(self) -> Shape:
        """One that the rows of every update fit into: prompts become shorter, by row, and never longer."""
        longest = self.source.plain(torch.arange(len(self.source.rows)))
        return Shape(longest.tokens_NT.shape[1], int(longest.answer_N.max()), is_even=False, tail=None)

    @cached_property
    def cuts(self) -> tuple[torch.Tensor, list[Shape]]:
        """Batches stay whole, since the lengths of their rows are not known before."""
        return torch.zeros(len(self.tokens_NT), dtype=torch.int64), [self.shape]

    def order(self, batch: int, **facts: Any) -> AugmentedOrder:
        return AugmentedOrder(self, batch, **facts)


class AugmentedOrder(RowOrder):
    """The order of rows that are changed: which places of the room an update takes, once they are written.

    Updates lie by turns in its first and its second half.
    """

    def __init__(self, rows: Augmented, batch: int, **facts: Any):
        super().__init__(len(rows), batch, **{**facts, "device": "cpu"})
        self.room = rows

    def update_rows(self, update: int) -> torch.Tensor:
        """The places of all processes' rows in an update, (B,), which are written unless the update is past."""
        room, begin = self.room, self.batch * (update % 2)
        places = slice(begin, begin + self.batch)
        if update >= self._updates_done():
            changed = room.source.changed(super().update_rows(update), update)
            for part in ("tokens_NT", "prompt_N", "answer_N"):
                getattr(room, part)[places] = getattr(changed, part).to(room.tokens_NT.device)
        return torch.arange(places.start, places.stop, device=room.tokens_NT.device)
