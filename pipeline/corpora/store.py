"""Corpora on disk: streamed to Arrow, proved, cached by content.

A cache entry lies under `$GROKLAB_CACHE` (default: `groklab` in the Hugging Face home) in a folder named by a hash of
the corpus's name, parameters and source code, and holds one Arrow stream per split, which `datasets.Dataset.from_file`
opens too. Its files are hashed again whenever it is opened. They are written elsewhere and moved in one by one:
processes that build the same corpus at once write the same bytes, so each may replace the other's files.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.config.registry import room_name
from pipeline.corpora.base import Corpus, Examples, Ids, count_among, prompt_keys
from pipeline.utils.code_hash import code_hash
from pipeline.utils.drafts import clean, draft_folder
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.files import sha256
from pipeline.utils.paths import expanded

if TYPE_CHECKING:  # what reads a recipe has no use for it
    import pyarrow as pa

INDEX = "corpus.json"


@dataclass(frozen=True)
class StoredCorpus:
    """A corpus that was generated and proved: its parameters, vocabulary, sizes, content hash and Arrow files."""

    corpus: Corpus
    folder: Path
    tokens: list[str]
    sizes: dict[str, int]
    content_hash: str
    held_out: tuple[str, ...]

    def blocks(self, split: str) -> Iterator[Examples]:
        """The examples of a split, block by block, mapped from disk."""
        import pyarrow as pa

        with pa.memory_map(str(self.folder / f"{split}.arrow")) as file:
            for batch in pa.ipc.open_stream(file):
                columns = {name: batch.column(name) for name in batch.schema.names}
                prompts, answers = (_matrix(columns.pop(name)) for name in ("prompt", "answer"))
                kind = columns.pop("type").dictionary[0].as_py()
                yield Examples(prompts, answers, kind, {name: note.to_numpy() for name, note in columns.items()})

    def role(self, split: str) -> str:
        """What a split is for, in words."""
        return "held out" if split in self.held_out else "trained" if split == "train" else "probe of train"

    def describe(self) -> dict[str, Any]:
        """What a run folder or a card says of the corpus."""
        return {
            "name": room_name(self.corpus),
            "parameters": self.corpus.as_dict(),
            "sizes": self.sizes,
            "held_out": self.held_out,
            "content_hash": self.content_hash,
            "vocabulary_size": len(self.tokens),
        }


def _matrix(column: pa.ListArray) -> Ids:
    return column.flatten().to_numpy().reshape(len(column), -1).astype(np.int32)


def cache_home() -> Path:
    """The folder of the cache.

    Raises:
        RecipeError: when it is to lie below a variable that is not set.
    """
    try:
        if home := os.environ.get("GROKLAB_CACHE"):
            return expanded(home, "GROKLAB_CACHE")
        return expanded(os.environ.get("HF_HOME") or "~/.cache/huggingface", "HF_HOME") / "groklab"
    except ParameterError as error:
        raise RecipeError("environment", str(error)) from None


def build(corpus: Corpus) -> StoredCorpus:
    """The corpus from the cache, or generated into it.

    Raises:
        ParameterError: when the parameters ask for more than there is, or data that was read mixes held-out prompts
            with trained ones.
        RecipeError: when the cache cannot be written.
        ValueError: when the corpus breaks another promise of `pipeline.corpora.base`.
    """
    folder = cache_home() / f"{room_name(corpus)}-{_content_key(corpus)}"
    stored = _open(corpus, folder)
    if stored:
        return stored
    home = cache_home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        clean(home, is_owner=False)  # of builds that were killed
        with draft_folder(home, folder.name) as draft:
            _generate(corpus, draft.path)
            draft.publish_files(is_synced=False)  # they are hashed whenever they are opened
        stored = _open(corpus, folder)
        if stored is None:
            raise OSError(errno.EIO, "what was written cannot be read back")
    except MemoryError as error:
        raise ParameterError(room_name(corpus), f"is too large for this machine: {error}") from None
    except OSError as error:
        if error.filename and not str(error.filename).startswith(str(home)):
            raise  # of what the corpus is read from
        reason = error.strerror or str(error)
        raise RecipeError("GROKLAB_CACHE", f"the cache of corpora {home} cannot be written: {reason}") from None
    return stored


def _content_key(corpus: Corpus) -> str:
    """A hash of all that decides the content: name, parameters, files read, and the code that generates and checks."""
    modules = [kind.__module__ for kind in type(corpus).__mro__ if issubclass(kind, Corpus)] + [Draws.__module__]
    code = code_hash(modules, "pipeline.corpora", (_generate, _check, _check_roles, _batch))
    facts = [room_name(corpus), corpus.as_dict(), corpus.fingerprint(), code]
    return _digest(facts)[:16]


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _open(corpus: Corpus, folder: Path) -> StoredCorpus | None:
    """The stored corpus, or None where there is none or a file of it is damaged."""
    try:
        written = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        index = written["index"]
        whole = written["sha256"] == _digest(index)
        if not whole or any(sha256(folder / name) != digest for name, digest in index["files"].items()):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    held_out = tuple(index["held_out"])
    return StoredCorpus(corpus, folder, index["tokens"], index["sizes"], index["content_hash"], held_out)


def _generate(corpus: Corpus, folder: Path) -> None:
    import pyarrow as pa

    name, splits = room_name(corpus), corpus.splits()  # first, as what is too large fails here at once
    tokens = corpus.tokens()
    if len(set(tokens)) != len(tokens):
        raise ValueError(f"{name}: a token stands twice in the vocabulary")
    content = hashlib.sha256(json.dumps(tokens).encode())
    known = len(corpus.vocabulary())
    width = pa.uint16() if len(tokens) < 2**16 else pa.uint32()
    prompts: dict[str, npt.NDArray[np.uint64]] = {}
    for split, blocks in splits.items():
        if not re.fullmatch(r"\w+", split, re.ASCII):
            raise ValueError(f"{name}: a split is called {split!r}; use letters, digits and underscores")
        keys = []
        writer = None
        for block in blocks:
            if not len(block):
                continue
            _check(f"{name}, split {split}", block, known)
            notes = sorted(block.notes)
            content.update(json.dumps([split, block.type, block.prompts.shape, block.answers.shape, notes]).encode())
            for part in (block.prompts, block.answers, *(block.notes[note] for note in notes)):
                content.update(np.ascontiguousarray(part, dtype="<i4").tobytes())
            keys.append(prompt_keys(block.prompts))
            batch = _batch(block, width)
            writer = writer or pa.ipc.new_stream(str(folder / f"{split}.arrow"), batch.schema)
            writer.write_batch(batch)
        if writer is None:
            raise ValueError(f"{name}: split {split} is empty")
        writer.close()
        prompts[split] = np.concatenate(keys)
    if "train" not in prompts:
        raise ValueError(f"{name}: there is no split train")
    _check_roles(corpus, prompts)
    index = {
        "content_hash": content.hexdigest(),
        "sizes": {split: len(keys) for split, keys in prompts.items()},
        "held_out": [split for split in prompts if split in corpus.held_out],
        "files": {file.name: sha256(file) for file in sorted(folder.iterdir())},
        "tokens": tokens,
    }
    (folder / INDEX).write_text(json.dumps({"sha256": _digest(index), "index": index}), encoding="utf-8")


def _check(where: str, block: Examples, known: int) -> None:
    for name, part in {"prompt": block.prompts, "answer": block.answers}.items():
        if part.ndim != 2 or part.shape[1] < 1 or len(part) != len(block):
            raise ValueError(f"{where}: {name}s have shape {part.shape}, not ({len(block)}, 1 or more)")
        if not 0 <= part.min() <= part.max() < known:
            raise ValueError(
                f"{where}: {name}s hold token ids {part.min()} to {part.max()}; the vocabulary has {known}"
            )


def _check_roles(corpus: Corpus, prompts: dict[str, npt.NDArray[np.uint64]]) -> None:
    """Proves that the held-out splits share no prompt with `train`, and that all others were drawn from it."""
    train = np.sort(prompts["train"])
    for split, keys in prompts.items():
        if split == "train":
            continue
        shared = count_among(keys, train)
        held_out = split in corpus.held_out
        if shared != (0 if held_out else len(keys)):
            raise ParameterError(
                room_name(corpus),
                f"{shared:,} of {len(keys):,} prompts of {split} stand in train; "
                + ("allowed: none, as it is held out" if held_out else "allowed: all, as it is not held out"),
            )


def _batch(block: Examples, width: pa.DataType) -> pa.RecordBatch:
    import pyarrow as pa

    def rows(part: Ids) -> pa.Array:
        offsets = np.arange(0, part.size + 1, part.shape[1], dtype=np.int32)
        return pa.ListArray.from_arrays(offsets, pa.array(part.reshape(-1)).cast(width))

    kind = pa.DictionaryArray.from_arrays(np.zeros(len(block), np.int8), [block.type])
    notes = {name: pa.array(block.notes[name]) for name in sorted(block.notes)}
    return pa.record_batch({"prompt": rows(block.prompts), "answer": rows(block.answers), "type": kind, **notes})


def as_text(stored: StoredCorpus, ids: Ids) -> pa.Array:
    """Rows of token ids (n, T) as n strings, joined as the corpus writes them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    tokens = pa.array(stored.tokens)
    return pc.binary_join_element_wise(*(tokens.take(pa.array(column)) for column in ids.T), stored.corpus.separator)
