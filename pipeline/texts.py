"""Natural text: rows of a corpus rendered through templates, and other texts cut into rows of equal length."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.parameters import ParameterError, Parameters, param
from pipeline.paths import expanded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pipeline.data import Rows
    from pipeline.store import StoredCorpus

READERS = {".txt": "text", ".md": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}

TOGETHER = 100  # documents that are tokenized at a time

ENDS = ("</a>", "<eos>")  # where an answer ends; in text it does not say so


@dataclass(frozen=True)
class Texts(Parameters):
    """A corpus of natural text: local files, or a dataset of the Hub, read as a stream."""

    source: str = param("", "a .txt, .jsonl, .json, .csv or .parquet file, a folder of such, or a dataset's name")
    config: str | None = param(None, "configuration of a dataset")
    split: str = param("train", "of a dataset")
    column: str = param("text", "that holds the text")
    length: int = param(64, "tokens of a row", ge=2)

    def documents(self, skip: int = 0) -> Iterator[tuple[int, str]]:
        """The texts in their order from number `skip` on, each with its number; nothing is read that is not asked for.

        Raises:
            ParameterError: when there is no such source, or it has no such column.
        """
        import datasets

        from pipeline.network import hub_unreachable

        if not self.source:
            raise ParameterError("source", "is missing; write a file, a folder or a dataset's name")
        path = expanded(self.source, "source")
        try:
            if path.exists():
                files = sorted(
                    file for file in ([path] if path.is_file() else path.rglob("*")) if file.suffix in READERS
                )
                kinds = {READERS[file.suffix] for file in files}
                if len(kinds) != 1:
                    raise ParameterError("source", f"{path} has no files of one kind of {', '.join(READERS)}")
                names = [str(file) for file in files]
                rows = datasets.load_dataset(kinds.pop(), data_files=names, split="train", streaming=True)
            elif reason := hub_unreachable():
                raise ParameterError(
                    "source", f"{self.source} is no file here, and the Hub cannot be reached ({reason})"
                )
            else:
                rows = datasets.load_dataset(self.source, self.config, split=self.split, streaming=True)
            for number, row in enumerate(rows.skip(skip), skip):
                if self.column not in row:
                    raise ParameterError("column", f"{self.source} has no {self.column}, but {', '.join(row)}")
                if row[self.column]:
                    yield number, row[self.column]
        except ParameterError:
            raise
        except Exception as error:  # Arrow's, json's, the Hub's and datasets' own have no class in common
            raise ParameterError("source", f"{self.source} {_reason(error)}") from error

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

    ratio: float = param(0.1, "share of the training rows that are replayed text", gt=0, lt=1)

    def mixed_with(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, batch: int) -> Rows:
        """The rows, and among them as many of the text as make up the ratio, for batches of at most `batch` rows.

        Raises:
            ParameterError: when the text cannot be read, or is too short for one row.
        """
        from pipeline.replayed import Replayed, Stream

        try:
            self.blocks(tokenizer, 1)
        except ParameterError as error:
            raise error.inside("replay") from None
        return Replayed.among(rows, self.ratio, Stream(self, tokenizer, batch))


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

    from pipeline.data import from_lists
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
    # Spaces before an answer are tokenized with it, as they would be inside a text.
    spaces = [len(prompt) - len(prompt.rstrip(" ")) for prompt in prompts]
    heads = _tokens(tokenizer, [prompt[: len(prompt) - n] for prompt, n in zip(prompts, spaces)])
    tails = _tokens(tokenizer, [" " * n + answer for answer, n in zip(answers, spaces)])
    if not all(map(len, heads)):
        raise ParameterError("model.templates", "a prompt has no text before its answer")
    return from_lists(heads, tails)


def _reason(error: Exception) -> str:
    """Why a source cannot be read, without the addresses and the advice that datasets adds."""
    lines = str(error).strip().splitlines() or [""]
    return f"cannot be read ({type(error).__name__}: {' '.join(lines[0].split())[:160]})"


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"]
