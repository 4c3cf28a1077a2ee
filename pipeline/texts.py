"""Natural text: rows of a corpus rendered through templates, and other texts cut into rows of equal length."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.parameters import ParameterError, Parameters, param
from pipeline.sources import content_hash, open_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pipeline.data import Rows
    from pipeline.store import StoredCorpus

TOGETHER = 100  # documents or rows that are tokenized at a time

ENDS = ("</a>", "<eos>")  # where an answer ends; in text it does not say so


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
        with self._readable():
            rows = open_rows(self.source, self.config, self.split)
            for number, row in enumerate(rows.skip(skip), skip):
                if self.column not in row:
                    raise ParameterError("column", f"{self.source} has no {self.column}, but {', '.join(row)}")
                text = row[self.column]
                if not isinstance(text, str | None):
                    kind = type(text).__name__
                    raise ParameterError(
                        "column", f"{self.column} of {self.source} is no text, but {kind}: {text!r:.80}"
                    )
                if text := (text or "").removeprefix("\ufeff"):  # a byte order mark
                    yield number, text

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
        try:
            yield
        except ParameterError:
            raise
        except Exception as error:  # Arrow's, json's, the Hub's and datasets' own have no class in common
            key = "split" if str(error).startswith("Bad split") else "source"
            raise ParameterError(key, f"{self.source} {_reason(error)}") from error

    def tokens(
        self, tokenizer: PreTrainedTokenizerBase, place: tuple[int, int] = (0, 0)
    ) -> Iterator[tuple[int, list[int]]]:
        """The tokens of each document with its number, from a place on: the number of a document and of a token in it.

        Raises:
            ParameterError: as `documents`, and when the tokenizer has no tokens for a word.
        """
        from pipeline.tokenizer import unknown_words

        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        first, passed = place
        documents = self.documents(first)
        while some := list(itertools.islice(documents, TOGETHER)):
            for (number, text), ids in zip(some, tokenizer([text for _, text in some])["input_ids"]):
                if lacking := unknown_words(tokenizer, text, ids):
                    raise ParameterError(
                        "source", f"{self.source} has words that the model has no tokens for: {', '.join(lacking[:5])}"
                    )
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


@dataclass(frozen=True)
class Replay(Texts):
    """Text of the user's that is trained beside the corpus, on all its tokens, against forgetting.

    It is read while training goes on, a few rows ahead; one that ends begins again.
    """

    ratio: float = param(0.1, "share of the replayed text in what is trained", gt=0, lt=1)
    by: Literal["tokens", "rows"] = param("tokens", "what the ratio counts: tokens that are trained, or rows")

    def mixed_with(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, batch: int) -> Rows:
        """The rows, and among them as many of the text as make up the ratio, for batches of at most `batch` rows.

        Raises:
            ParameterError: when the text cannot be read, is too short for one row, or its rows are too long for the
                ratio.
        """
        from pipeline.replayed import Replayed, Stream

        try:
            self.blocks(tokenizer, 1)
            return Replayed.among(rows, self._count(rows), Stream(self, tokenizer, batch))
        except ParameterError as error:
            raise error.inside("replay") from None

    def _count(self, rows: Rows) -> int:
        """How many rows of text there are in a pass over the rows of the corpus."""
        if self.by == "rows":
            return max(1, round(len(rows) * self.ratio / (1 - self.ratio)))
        trained, of_row = int(rows.answer_N.sum()), self.length - 1
        count = max(1, round(trained * self.ratio / (1 - self.ratio) / of_row))
        share = count * of_row / (count * of_row + trained)
        if abs(share - self.ratio) > self.ratio / 4:
            raise ParameterError(
                "length",
                f"{self.length} is too long for a ratio of {self.ratio:g}: a pass over the corpus trains {trained:,} "
                f"tokens, and {count} row of text would be {share:.2g} of all; "
                f"<= {max(2, int(trained * self.ratio / (1 - self.ratio)) + 1)}, or a larger ratio",
            )
        return count


def render(
    stored: StoredCorpus,
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    templates: Mapping[str, str],
    most: int | None = None,
) -> Rows:
    """A split as text in the tokens of a model; `most` draws that many rows, those that `load_rows` draws.

    Raises:
        ParameterError: when a template asks for what the prompts do not have.
    """
    import numpy as np

    from pipeline.seeds import sample
    from pipeline.store import as_text

    drawn = sample(stored.sizes[split], most, split, "probe")
    chosen = np.full(stored.sizes[split], drawn is None)
    chosen[drawn if drawn is not None else ()] = True
    ends = {stored.tokens.index(token) for token in ENDS if token in stored.tokens}
    words = np.array([token.strip("<>") for token in stored.tokens], dtype=object)
    prompts, answers, start = list[str](), list[str](), 0
    for block in stored.blocks(split):
        block = block.take(np.flatnonzero(chosen[start : (start := start + len(block))]))
        if not len(block):
            continue
        kind = next((name for name in templates if fnmatch.fnmatchcase(block.type, name)), "default")
        head = templates[kind].removesuffix("{answer}")
        texts = as_text(stored, block.prompts).to_pylist()
        for prompt, tokens in zip(texts, words[block.prompts]):
            fields = {f"p{place}": word for place, word in enumerate(tokens)}
            try:
                prompts.append(head.format(prompt=prompt, **fields))
            except (KeyError, IndexError, ValueError) as error:
                allowed = ", ".join(f"{{{name}}}" for name in ("prompt", *fields, "answer"))
                raise ParameterError(
                    f"model.templates.{kind}", f"{templates[kind]!r} does not fit ({error}); allowed: {allowed}"
                ) from None
        named = words if "{prompt}" not in head else np.array(stored.tokens, dtype=object)
        for row in block.answers:
            answers.append(stored.corpus.separator.join(named[token] for token in row if token not in ends))
    return _encode(tokenizer, prompts, answers)


def _encode(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], answers: Sequence[str]) -> Rows:
    """Rows of a text each; spaces between prompt and answer are tokenized with the answer, as inside any text.

    Raises:
        ParameterError: when a prompt alone is read otherwise than in its row, or has no tokens, or when the tokenizer
            has none for a word.
    """
    from pipeline.data import from_lists
    from pipeline.tokenizer import unknown_words

    heads, tails = list[list[int]](), list[list[int]]()
    for start in range(0, len(prompts), TOGETHER):
        begun = prompts[start : start + TOGETHER]
        texts = [prompt + answer for prompt, answer in zip(begun, answers[start : start + TOGETHER])]
        begun = [prompt.rstrip(" ") for prompt in begun]
        for prompt, text, head, whole in zip(begun, texts, _tokens(tokenizer, begun), _tokens(tokenizer, texts)):
            if lacking := unknown_words(tokenizer, text, whole):
                raise ParameterError(
                    "model.templates", f"{text!r} has words that the model has no tokens for: {', '.join(lacking[:5])}"
                )
            if not head:
                raise ParameterError("model.templates", "a prompt has no text before its answer")
            if whole[: len(head)] != head or len(whole) == len(head):
                shown = [tokenizer.convert_ids_to_tokens(ids) for ids in (head, whole)]
                raise ParameterError(
                    "model.templates",
                    f"{prompt!r} is read as {shown[0]}, but before its answer as {shown[1]}; "
                    "write a space before {answer}",
                )
            heads.append(head)
            tails.append(whole[len(head) :])
    return from_lists(heads, tails)


def _reason(error: Exception) -> str:
    """Why a source cannot be read, without the addresses and the advice that datasets adds."""
    lines = str(error).strip().splitlines()
    return f"cannot be read ({type(error).__name__}: {' '.join(' '.join(lines[:2]).split())[:200]})"


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts))["input_ids"]
