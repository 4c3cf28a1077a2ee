"""Natural text: files and datasets, read as a stream of documents and cut into rows of equal length."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.fields import Parameters, param
from pipeline.data.sources import content_hash, open_rows
from pipeline.utils.errors import ParameterError, as_mistake

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TOGETHER = 100  # documents that are tokenized at a time


@dataclass(frozen=True)
class Texts(Parameters):
    """A corpus of natural text: local files, or a dataset of the Hub, read as a stream."""

    source: str = param("", "a .txt, .jsonl, .json, .csv or .parquet file, a folder of such, or a dataset's name")
    config: str | None = param(None, "configuration of a dataset")
    split: str = param("train", "of a folder or a dataset, by the rules of datasets")
    column: str = param("text", "that holds the text")
    length: int = param(64, "tokens of a row", ge=2)

    def documents(self, skip: int = 0) -> Iterator[tuple[int, str]]:
        """The texts in their order from number `skip` on, each with its number; nothing is read that is not asked for.

        Raises:
            ParameterError: when there is no such source, or it has no such column.
        """
        for number, row in enumerate(self._rows(skip), skip):
            if self.column not in row:
                raise ParameterError("column", f"{self.source} has no {self.column}, but {', '.join(row)}")
            text = row[self.column]
            if not isinstance(text, str | None):
                kind = type(text).__name__
                raise ParameterError("column", f"{self.column} of {self.source} is no text, but {kind}: {text!r:.80}")
            if text := (text or "").removeprefix("\ufeff"):  # a byte order mark
                yield number, text

    def _rows(self, skip: int) -> Iterator[dict[str, Any]]:
        with self._readable():
            yield from open_rows(self.source, self.config, self.split).skip(skip)

    def identity(self, known: dict[Path, str]) -> dict[str, str | None]:
        """Which text it is: what it is called and, of one that lies here, a hash of its files.

        Args:
            known: Hashes of files that were read before, to which those of this text are added.

        Raises:
            ParameterError: when there is no such source.
        """
        with self._readable():
            found = content_hash(self.source, self.config, self.split, known)
        return {"source": self.source, "config": self.config, "split": self.split, "sha256": found}

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Says in a line why a source cannot be read."""
        if not self.source:
            raise ParameterError("source", "is missing; write a file, a folder or a dataset's name")
        with as_mistake(self._unreadable):
            yield

    def _unreadable(self, error: Exception) -> ParameterError:
        key = "split" if str(error).startswith("Bad split") else "source"
        return ParameterError(key, f"{self.source} {_reason(error)}")

    def tokens(
        self, tokenizer: PreTrainedTokenizerBase, place: tuple[int, int] = (0, 0)
    ) -> Iterator[tuple[int, list[int]]]:
        """The tokens of each document with its number, from a place on: the number of a document and of a token in it.

        Raises:
            ParameterError: as `documents`, and when the tokenizer has no tokens for a word.
        """
        from pipeline.data.tokenizer import UnknownWordsError, encode

        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        first, passed = place
        documents = self.documents(first)
        while some := list(itertools.islice(documents, TOGETHER)):
            try:
                rows = encode(tokenizer, [text for _, text in some])
            except UnknownWordsError as error:
                words = ", ".join(error.words[:5])
                raise ParameterError(
                    "source", f"{self.source} has words that the model has no tokens for: {words}"
                ) from None
            for (number, _), ids in zip(some, rows):
                yield number, [*ids, *end][passed if number == first else 0 :]

    def blocks(self, tokenizer: PreTrainedTokenizerBase, count: int) -> Any:
        """The first `count` rows of `length` tokens, (count, length), documents one after the other.

        Raises:
            ParameterError: when the text is too short for one row.
        """
        import torch

        stream = itertools.chain.from_iterable(ids for _, ids in self.tokens(tokenizer))
        tokens = list(itertools.islice(stream, count * self.length))
        whole = len(tokens) // self.length
        if not whole:
            raise ParameterError(
                "source", f"{self.source} has {len(tokens)} tokens, fewer than one row of {self.length}"
            )
        return torch.tensor(tokens[: whole * self.length]).view(whole, self.length)


def _reason(error: Exception) -> str:
    """Why a source cannot be read, without the addresses and the advice that datasets adds."""
    lines = str(error).strip().splitlines()
    return f"cannot be read ({type(error).__name__}: {' '.join(' '.join(lines[:2]).split())[:200]})"
