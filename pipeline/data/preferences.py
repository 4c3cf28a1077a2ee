"""Rows in pairs: an answer that is preferred, and one that is not, to the same prompt.

Tensor names carry their shape: N pairs, B pairs of a batch, T tokens of a row, A answer tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from pipeline.data.buckets import Shape, widths
from pipeline.data.rows import Batch, Rows, joined
from pipeline.utils.draws import Draws, Numbers
from pipeline.utils.errors import ParameterError


@dataclass(frozen=True)
class Preferences(Rows):
    """Pairs: rows with the preferred answers, and below them as many with the others.

    reference_N: the log probability of each answer, (2N,), by the model that training started from; or `kept`, which
    computes those of a batch.
    """

    reference_N: torch.Tensor | None = None
    kept: Callable[[Batch], torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.tokens_NT) // 2

    def to(self, device: torch.device) -> Preferences:
        moved = super().to(device)
        return dataclasses.replace(self, tokens_NT=moved.tokens_NT, prompt_N=moved.prompt_N, answer_N=moved.answer_N)

    @cached_property
    def cuts(self) -> tuple[torch.Tensor, list[Shape]]:
        """Which piece of a batch a pair belongs to, (N,), and the shapes of the pieces."""
        prompt_2N, answer_2N = (part.cpu().view(2, -1) for part in (self.prompt_N, self.answer_N))
        length_N = (prompt_2N + answer_2N).amax(0)
        piece_N = torch.bucketize(length_N, torch.tensor(widths(length_N)))
        pieces = [piece_N == number for number in range(int(piece_N.max()) + 1)]
        return piece_N, [Shape.of(prompt_2N[:, some].flatten(), answer_2N[:, some].flatten()) for some in pieces]

    def _batch(self, index_B: torch.Tensor, shape: Shape) -> Batch:
        """The batch of these pairs, (2B, ...): the preferred ones first. With `reference`, (2B,), once there is one."""
        both = torch.cat([index_B, index_B + len(self)])
        batch = super()._batch(both, shape)
        if self.reference_N is not None:
            batch["reference"] = self.reference_N[both]
        elif self.kept is not None:
            batch["reference"] = self.kept(batch)
        return batch

    def scored(self, score: Callable[[Batch], torch.Tensor], size: int = 128) -> Preferences:
        """The same pairs with the log probabilities of their answers."""
        found_2N = torch.empty(2, len(self), device=self.tokens_NT.device)
        for index_B in torch.arange(len(self), device=found_2N.device).split(size):
            found_2N[:, index_B] = score(self.__getitems__(index_B)).view(2, -1)
        return dataclasses.replace(self, reference_N=found_2N.flatten())


def paired(rows: Rows, wrong: Rows) -> Preferences:
    """Rows and, in the same order, those with the other answers."""
    both = joined([rows, wrong])
    return Preferences(both.tokens_NT, both.prompt_N, both.answer_N)


def with_answers(rows: Rows, answers: list[Numbers]) -> Rows:
    """The rows with other answers, one array of tokens for each."""
    answer_N = torch.tensor([len(answer) for answer in answers])
    width = int((rows.prompt_N + answer_N).max())
    tokens_NT = torch.zeros(len(rows), width, dtype=torch.int64)
    copied = min(width, rows.tokens_NT.shape[1])
    is_prompt_NT = torch.arange(copied) < rows.prompt_N[:, None]
    tokens_NT[:, :copied] = rows.tokens_NT[:, :copied] * is_prompt_NT
    for row_T, start, answer in zip(tokens_NT, rows.prompt_N.tolist(), answers):
        row_T[start : start + len(answer)] = torch.from_numpy(answer)
    return Rows(tokens_NT, rows.prompt_N, answer_N)


def answers_of(rows: Rows) -> list[Numbers]:
    """The answer of each row, in tokens."""
    return [
        row[start : start + length].numpy()
        for row, start, length in zip(rows.tokens_NT, rows.prompt_N.tolist(), rows.answer_N.tolist())
    ]


def other_answers(rows: Rows, draws: Draws) -> Rows:
    """Each row with the answer of another one: as long as its own, and drawn uniformly of those that differ.

    Raises:
        ParameterError: when there is no other for some row.
    """
    found = answers_of(rows)
    for _, same in _by_length(rows):
        kinds, own = np.unique(np.stack([found[row] for row in same]), axis=0, return_inverse=True)
        if len(kinds) < 2:
            raise ParameterError("rejected", f"there is no other answer of {kinds.shape[1]} tokens; write changed")
        drawn = draws.below(len(kinds) - 1, len(same))
        drawn += drawn >= own.ravel()
        for row, kind in zip(same, drawn):
            found[row] = kinds[kind]
    return with_answers(rows, found)


def changed_answers(rows: Rows, draws: Draws) -> Rows:
    """Each row with its answer, in which one token is another: one that some answer as long has at that place.

    Raises:
        ParameterError: when answers as long have the same tokens everywhere.
    """
    found = answers_of(rows)
    for length, same in _by_length(rows):
        answers = np.stack([found[row] for row in same])
        tokens = [np.unique(column) for column in answers.T]
        places = np.array([place for place in range(length) if len(tokens[place]) > 1])
        if not len(places):
            raise ParameterError("rejected", f"all answers of {length} tokens are the same, so none can be changed")
        for row, place, drawn in zip(same, places[draws.below(len(places), len(same))], draws.uniform(len(same))):
            others = tokens[place][tokens[place] != found[row][place]]
            found[row] = found[row].copy()
            found[row][place] = others[int(drawn * len(others))]
    return with_answers(rows, found)


def _by_length(rows: Rows) -> list[tuple[int, list[int]]]:
    """Lengths of answers, each with the numbers of its rows."""
    answer_N = rows.answer_N.numpy()
    return [(int(length), np.flatnonzero(answer_N == length).tolist()) for length in np.unique(answer_N)]
