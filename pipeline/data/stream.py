"""Rows of a text among those of a corpus, read from a stream while training goes on.

Which rows of an update are text is decided by the order of rows, as for all others: a pass shows every row of the
corpus once, and as many rows of text as make up the ratio, always new ones. The n-th of them in a run is the n-th row
of the text. So memory does not grow with the text, and what is trained depends neither on the number of processes,
each of which reads the stream for itself, nor on where a run was resumed.

Tensor names carry their shape: N rows of a pass, S rows that are read together, T tokens of a row.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.data.buckets import Shape
from pipeline.data.rows import Batch, RowOrder, Rows, joined
from pipeline.utils.errors import ParameterError
from pipeline.utils.files import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pipeline.data.text import Texts

PLACES = "replay.json"  # in a checkpoint: where the text goes on
REMEMBERED = 8  # parts whose places are known; more than are ever read ahead

Place = tuple[int, int]  # number of a document, and of a token in it


class Stream:
    """The rows of a text without end, in parts of `size` rows, the next of which is read by a thread."""

    def __init__(self, texts: Texts, tokenizer: PreTrainedTokenizerBase, size: int):
        self.texts, self.size = texts, size
        self._tokenizer = copy.deepcopy(tokenizer)  # the thread's own
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replay")
        self._next: Future[torch.Tensor] | None = None
        self._number = -1  # of the part that `_next` reads
        self.places: dict[int, Place] = {0: (0, 0)}  # of parts, where they begin

    def part(self, number: int) -> torch.Tensor:
        """Part `number`, (S, T). Parts are best taken in their order; others are read from the nearest known place.

        Raises:
            ParameterError: when the text cannot be read any more.
        """
        if self._next is None or number != self._number:
            self._stop()
            self._number = max((known for known in self.places if known <= number), default=0)
            self._source = self._tokens(self.places.get(self._number, (0, 0)))
            self._rest: tuple[int, int, list[int]] | None = None
            self._ahead()
        while True:
            assert self._next is not None
            try:
                rows_ST = self._next.result()
            except ParameterError as error:
                raise error.inside("replay") from None
            self._number += 1
            self._ahead()
            if self._number > number:
                return rows_ST

    def save(self, folder: Path) -> None:
        """Where the parts begin that may be asked for next."""
        write_json(folder / PLACES, {str(number): place for number, place in dict(self.places).items()})

    def resume(self, folder: Path) -> None:
        """Takes over the places of a checkpoint; without them, the text is read from its start."""
        if (folder / PLACES).is_file():
            self._stop()
            places = json.loads((folder / PLACES).read_text(encoding="utf-8"))
            self.places = {int(number): (place[0], place[1]) for number, place in places.items()}

    def _stop(self) -> None:
        if self._next is not None:
            self._next.exception()
            self._next = None

    def _ahead(self) -> None:
        self._next = self._thread.submit(self._read, self._number)

    def _read(self, number: int) -> torch.Tensor:
        """The next part, remembering where the one after it begins."""
        wanted = self.size * self.texts.length
        tokens = list[int]()
        while True:
            document, passed, ids = self._rest or next(self._source)
            some = ids[: wanted - len(tokens)]
            tokens += some
            self._rest = (document, passed + len(some), ids[len(some) :])
            if len(tokens) == wanted:
                break
            self._rest = None
        self.places[number + 1] = self._rest[:2]
        for old in sorted(self.places)[:-REMEMBERED]:
            del self.places[old]
        return torch.tensor(tokens).view(self.size, self.texts.length)

    def _tokens(self, place: Place) -> Iterator[tuple[int, int, list[int]]]:
        """Documents from a place on, and from the first one again after the last: number, tokens passed, tokens."""
        while True:
            for number, ids in self.texts.tokens(self._tokenizer, place):
                yield number, place[1] if number == place[0] else 0, ids
            place = (0, 0)


@dataclass(frozen=True)
class Replayed(Rows):
    """Rows of which the last ones are text, `count` in a pass; the tensors have room for two parts of the stream."""

    count: int
    stream: Stream

    @staticmethod
    def among(rows: Rows, count: int, stream: Stream) -> Replayed:
        """The rows, and in each pass over them `count` of the stream."""
        length = stream.texts.length
        room = torch.zeros(2 * stream.size, length, dtype=torch.int64)
        ones = torch.ones(len(room), dtype=torch.int64)
        whole = joined([rows, Rows(room, ones, ones * (length - 1))])
        return Replayed(whole.tokens_NT, whole.prompt_N, whole.answer_N, count, stream)

    @property
    def others(self) -> int:
        """Rows of the corpus."""
        return len(self.tokens_NT) - 2 * self.stream.size

    def __len__(self) -> int:
        return self.others + self.count

    def to(self, device: torch.device) -> Replayed:
        moved = super().to(device)
        return Replayed(moved.tokens_NT, moved.prompt_N, moved.answer_N, self.count, self.stream)

    def _batch(self, index_B: torch.Tensor, shape: Shape) -> Batch:
        """The batch of these rows, with `replayed`, (B,): which of them are text."""
        return {**super()._batch(index_B, shape), "replayed": index_B >= self.others}

    def order(self, batch: int, **facts: Any) -> ReplayedOrder:
        return ReplayedOrder(self, batch, **facts)


class ReplayedOrder(RowOrder):
    """The order of rows of which some are text: each of those is the next row of the stream.

    Parts of the stream lie by turns in the first and the second half of the room for them. An update takes no more rows
    than a part has, so what it needs lies in the two that were read last.
    """

    def __init__(self, rows: Replayed, batch: int, **facts: Any):
        super().__init__(len(rows), batch, **facts)
        self.replayed = rows
        self._read = [-1, -1]  # which part lies in each half
        self._drawn = lru_cache(maxsize=3)(self._draw)

    def update_rows(self, update: int) -> torch.Tensor:
        """The rows of all processes in an update, (B,), whose text has been read unless the update is past."""
        if update >= self._updates_done():
            size = self.replayed.stream.size
            begin, end = self._text_rows(update * self.batch), self._text_rows((update + 1) * self.batch)
            for part in range(begin // size, -(-end // size)) if end > begin else ():
                self._fill(part)
        return super().update_rows(update)

    def _fill(self, part: int) -> None:
        if part not in self._read:
            rows, size = self.replayed, self.replayed.stream.size
            half = part % 2
            text_ST = rows.stream.part(part)
            start = rows.others + half * size
            rows.tokens_NT[start : start + size, : text_ST.shape[1]] = text_ST.to(rows.tokens_NT.device)
            self._read[half] = part

    def _text_rows(self, drawn: int) -> int:
        """How many of the first rows that are drawn in a run are text."""
        number, start = divmod(drawn, self.rows)
        before = self.replayed.count * number
        return before + int(self._drawn(number)[1][start - 1]) if start else before

    def _draw(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The order of a pass, and how many of its rows are text up to each of them."""
        order_N = super()._order(number)
        return order_N, (order_N >= self.replayed.others).cumsum(0)

    def _order(self, number: int) -> torch.Tensor:
        order_N, so_far_N = self._drawn(number)
        rows = self.replayed
        text_N = self.replayed.count * number + so_far_N - 1
        return torch.where(order_N < rows.others, order_N, rows.others + text_N % (2 * rows.stream.size))
