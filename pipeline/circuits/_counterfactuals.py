"""Corrupted prompts for interventions: a known prompt that differs from a given one in one token, with another answer.

Known are the prompts of all splits of a stored corpus, so no corpus has to say how a prompt of its own is corrupted.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from pipeline.corpora.base import Examples, Ids, prompt_keys
from pipeline.corpora.store import StoredCorpus, as_text
from pipeline.utils.draws import Draws, Numbers


class Neighbours:
    """Corrupts the prompts of a stored corpus. What it looks up is sorted on first use, by shape and position."""

    def __init__(self, stored: StoredCorpus):
        self._stored = stored
        self._shape = functools.cache(self._load)

    def corrupt(self, examples: Examples, draws: Draws, position: int | None = None) -> Examples:
        """For each example one of the prompts that differ from its own in one token and have another answer.

        They are drawn uniformly, among those that differ at `position` where it is given, and have as many tokens in
        prompt and answer as the examples. The note `position` says where they differ.

        Raises:
            LookupError: when an example is not of this corpus, or has no such prompt; see `count`.
        """
        shape, positions, spans = self._spans(examples, position)
        counts = np.stack([span.others for span in spans])
        if not counts.sum(axis=0).all():
            prompt = self._text(examples, int(np.argmin(counts.sum(axis=0))))
            where = "" if position is None else f", the one at {position},"
            raise LookupError(f"no prompt differs from {prompt} in one token{where} and has another answer")
        drawn = draws.below(counts.sum(axis=0), len(examples))
        ends = counts.cumsum(axis=0)
        which = (drawn >= ends).sum(axis=0)
        found = np.empty(len(examples), np.int64)
        for i, span in enumerate(spans):
            rows = which == i
            place = span.start[rows] + drawn[rows] - (ends - counts)[i, rows]
            place += np.where(place >= span.same_start[rows], span.same[rows], 0)
            found[rows] = span.order[place]
        notes = {"position": np.array(positions, np.int32)[which]}
        return Examples(shape.prompts[found], shape.answers[found], "corrupted", notes)

    def count(self, examples: Examples, position: int | None = None) -> Numbers:
        """How many prompts `corrupt` would choose from, for each example (n,).

        Raises:
            LookupError: when an example is not of this corpus.
        """
        return np.sum([span.others for span in self._spans(examples, position)[2]], axis=0)

    def _spans(self, examples: Examples, position: int | None) -> tuple[KnownPrompts, list[int], list[Span]]:
        length = examples.prompts.shape[1]
        shape = self._shape(length, examples.answers.shape[1])
        rows = np.searchsorted(shape.keys, prompt_keys(examples.prompts)).clip(max=len(shape.keys) - 1)
        unknown = np.flatnonzero((shape.prompts[rows] != examples.prompts).any(axis=1))
        if len(unknown):
            raise LookupError(f"{self._text(examples, unknown[0])} is not a prompt of this corpus")
        positions = list(range(length)) if position is None else [position]
        return shape, positions, [shape.family(position).span(rows, shape.num_answers) for position in positions]

    def _load(self, prompt: int, answer: int) -> KnownPrompts:
        blocks = [
            block
            for split in self._stored.sizes
            for block in self._stored.blocks(split)
            if (block.prompts.shape[1], block.answers.shape[1]) == (prompt, answer)
        ]
        if not blocks:
            raise LookupError(f"this corpus has no prompts of {prompt} tokens with answers of {answer}")
        return KnownPrompts(*(np.concatenate(parts) for parts in zip(*((b.prompts, b.answers) for b in blocks))))

    def _text(self, examples: Examples, row: int) -> str:
        return as_text(self._stored, examples.prompts[row : row + 1])[0].as_py()


class Span(NamedTuple):
    """For n prompts their families as slices of `order`, without the part whose answer is the prompt's own.

    Each family begins at `start`; `same` of its prompts, from `same_start` on, have the same answer, the `others` not.
    """

    order: Numbers
    start: Numbers
    same_start: Numbers
    same: Numbers
    others: Numbers


class PromptFamilies(NamedTuple):
    """Prompts ordered so that those equal but for one position stand together, a family, in order of their answers.

    A prompt's code is the number of its family x answers + the number of its answer.
    """

    code: Numbers
    order: Numbers
    sorted: Numbers

    def span(self, rows: Numbers, num_answers: int) -> Span:
        code = self.code[rows]
        family = code // num_answers * num_answers
        bounds = (family, family + num_answers, code, code + 1)
        start, stop, same_start, same_stop = (np.searchsorted(self.sorted, bound) for bound in bounds)
        same = same_stop - same_start
        return Span(self.order, start, same_start, same, stop - start - same)


class KnownPrompts:
    """The known prompts of one length, each once, with answers of one length."""

    def __init__(self, prompts: Ids, answers: Ids):
        self.keys, first = np.unique(prompt_keys(prompts), return_index=True)
        self.prompts, self.answers = prompts[first], answers[first]
        distinct, self._answer = np.unique(prompt_keys(self.answers), return_inverse=True)
        self.num_answers = len(distinct)
        self.family = functools.cache(self._sort)

    def _sort(self, position: int) -> PromptFamilies:
        others = np.delete(self.prompts, position, axis=1)
        _, family = np.unique(prompt_keys(others), return_inverse=True)
        code = family * self.num_answers + self._answer
        order = np.argsort(code, kind="stable")
        return PromptFamilies(code, order, code[order])
