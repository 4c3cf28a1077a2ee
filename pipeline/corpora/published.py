"""Data in the file format of Wang et al. 2024 (arXiv 2405.15071), as their notebooks write it: read and written.

A folder holds `train.json`, a list of {input_text, target_text}; `test.json`, the probes, each with a `type`;
`valid.json`, the OOD ones once more; and `vocab.json`, the list of tokens. Every token is written `<...>`, with nothing
between tokens, and `target_text` is `input_text` and the answer. Outside of composition, all items have a `type`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.fields import param
from pipeline.config.registry import room_name
from pipeline.corpora.base import PAD, Corpus, Examples, Ids, count_among, prompt_keys
from pipeline.corpora.store import StoredCorpus, as_text, build
from pipeline.utils.errors import ParameterError, in_one_line
from pipeline.utils.files import sha256
from pipeline.utils.paths import expanded

TRAIN, VALID, TEST, VOCAB = FILES = ("train.json", "valid.json", "test.json", "vocab.json")
TOKEN = r"<[^<>\s\ud800-\udfff]+>"  # a half of a surrogate pair is text in JSON, and nowhere else
TYPES = {"id": "test_inferred_iid", "ood": "test_inferred_ood"}  # split -> its type there; others are called the same
SPLITS = {kind: split for split, kind in TYPES.items()}
# Splits in the order of their probes in test.json, by corpus.
ORDER = {
    "composition": ("id_atomic", "ood_atomic", "train_inferred", "id", "ood"),
    "comparison": ("ood", "id_atomic", "ood_atomic", "id", "train_inferred"),
    "complex_reasoning": (
        *("ood", "id_atomic", "id", "ood_atomic"),
        *("train_inferred_topleft", "train_inferred_cross", "test_hard"),
    ),
}


class PublishedItems(NamedTuple):
    """The items of a file as columns: texts of prompts and answers, and types."""

    prompts: list[str]
    answers: list[str]
    types: list[str]


@dataclass(frozen=True)
class Published(Corpus):
    """A folder of train.json, valid.json, test.json and vocab.json, as Wang et al. publish them.

    `test_inferred_iid` and `test_inferred_ood` become the splits `id` and `ood`; probes of other types make splits of
    that name. A split is held out when none of its prompts is trained.
    """

    path: str = param("", "the folder of the four files")

    @classmethod
    def tiny(cls, folder: Path = Path()) -> Published:
        from pipeline.corpora.composition import Composition

        write_published(build(Composition.tiny()), folder)
        return cls(str(folder))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise self._lacks(TRAIN)

    def check_here(self) -> None:
        for name in FILES:
            if not self._file(name).is_file():
                raise self._lacks(name)

    def _lacks(self, name: str) -> ParameterError:
        return ParameterError("path", f"{self.path!r} holds no {name}; name a folder of {', '.join(FILES)}")

    def _file(self, name: str) -> Path:
        return expanded(self.path, "path") / name

    def _error(self, name: str, message: str, item: int | None = None) -> ParameterError:
        place = "" if item is None else f"[{item}]"
        return ParameterError("path", f"{self._file(name)}{place}: {message}")

    def fingerprint(self) -> str:
        self.check_here()
        return " ".join(sha256(self._file(name)) for name in FILES)

    def vocabulary(self) -> list[str]:
        return self._vocabulary

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        return self._splits

    @functools.cached_property
    def held_out(self) -> tuple[str, ...]:
        keys = {
            split: np.concatenate([prompt_keys(block.prompts) for block in blocks])
            for split, blocks in self._splits.items()
        }
        train = np.sort(keys["train"])
        return tuple(split for split in keys if not count_among(keys[split], train))

    @property
    def probes(self) -> tuple[str, ...]:
        """The splits of test.json in the order in which its types appear."""
        return tuple(dict.fromkeys(SPLITS.get(item["type"], item["type"]) for item in self._list(TEST)))

    @property
    def has_types(self) -> bool:
        """Whether items outside of test.json say their type."""
        return any("type" in item for item in self._list(TRAIN))

    @functools.cached_property
    def _vocabulary(self) -> list[str]:
        tokens = self._list(VOCAB)
        seen: set[str] = set()
        for i, token in enumerate(tokens):
            if not isinstance(token, str) or not re.fullmatch(TOKEN, token):
                raise self._error(VOCAB, f"{_cut(token)} is not a token written <...>", i)
            if token in seen:
                raise self._error(VOCAB, f"{token} stands there twice", i)
            if token == PAD or token.startswith("<reserved_"):
                raise self._error(VOCAB, f"{token} is a token that this pipeline adds", i)
            seen.add(token)
        return tokens

    @functools.cached_property
    def _splits(self) -> dict[str, list[Examples]]:
        train, valid, test = (self._items(name) for name in (TRAIN, VALID, TEST))
        for i, kind in enumerate(test.types):
            if not re.fullmatch(r"\w+", kind, re.ASCII) or kind == "train":
                raise self._error(TEST, f"type {_cut(kind)} is not letters, digits and underscores, or is train", i)
        known = set(zip(test.prompts, test.answers))
        for i, fact in enumerate(zip(valid.prompts, valid.answers)):
            if fact not in known:
                raise self._error(VALID, f"is not among the probes of {TEST}; add it there, with a type", i)
        splits: dict[str, list[Examples]] = {"train": self._blocks(TRAIN, train), "id": [], "ood": []}
        for block in self._blocks(TEST, test):
            splits.setdefault(SPLITS.get(block.type, block.type), []).append(block)
        return {split: blocks for split, blocks in splits.items() if blocks}

    def _list(self, name: str) -> list[Any]:
        try:
            found = json.loads(self._file(name).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise self._error(name, f"cannot be read as JSON: {in_one_line(error)}") from None
        # There is nothing to validate on where a corpus has no OOD probes.
        if not isinstance(found, list) or not (found or name == VALID):
            raise self._error(name, "is empty" if found == [] else "is not a list")
        return found

    def _items(self, name: str) -> PublishedItems:
        items, row = PublishedItems([], [], []), re.compile(f"({TOKEN})+")
        default_type = None if name == TEST else "train"
        for i, item in enumerate(self._list(name)):
            if not isinstance(item, dict):
                raise self._error(name, f"{_cut(item)} is not an item {{input_text, target_text}}", i)
            texts: Any = item.get("input_text"), item.get("target_text"), item.get("type", default_type)
            wrong = [key for key, text in zip(("input_text", "target_text", "type"), texts) if type(text) is not str]
            if wrong:
                raise self._error(name, f"{wrong[0]} is missing or is not text", i)
            prompt, target, kind = texts
            if not target.startswith(prompt):
                raise self._error(name, f"target_text does not start with input_text, {_cut(prompt)}", i)
            answer = target[len(prompt) :]
            if not (row.fullmatch(prompt) and row.fullmatch(answer)):
                raise self._error(name, f"{_cut(target)} is not a prompt and an answer in tokens written <...>", i)
            items.prompts.append(prompt)
            items.answers.append(answer)
            items.types.append(kind)
        return items

    def _blocks(self, name: str, items: PublishedItems) -> list[Examples]:
        """The items as blocks of one type and shape, in the order in which the types appear."""
        (prompt, prompt_at), (answer, answer_at) = (self._encode(name, texts) for texts in items[:2])
        prompt_length, answer_length = np.diff(prompt_at), np.diff(answer_at)
        number = {kind: i for i, kind in enumerate(dict.fromkeys(items.types))}
        kinds = np.array([number[kind] for kind in items.types])
        shapes = kinds, prompt_length, answer_length
        code = np.ravel_multi_index(shapes, [part.max() + 1 for part in shapes])
        _, first, group = np.unique(code, return_index=True, return_inverse=True)
        blocks = []
        for g, example in enumerate(first):
            rows = np.flatnonzero(group == g)
            prompts = prompt[prompt_at[rows, None] + np.arange(prompt_length[example])]
            answers = answer[answer_at[rows, None] + np.arange(answer_length[example])]
            blocks.append(Examples(prompts, answers, items.types[example]))
        return blocks

    def _encode(self, name: str, texts: Sequence[str]) -> tuple[Ids, npt.NDArray[np.int32]]:
        """All tokens of n texts as indices into the vocabulary, and where each text's begin, and the last one's end."""
        inner = pc.split_pattern(pc.utf8_slice_codeunits(pa.array(texts), 1, -1), "><")
        words, starts = inner.values, inner.offsets.to_numpy()
        ids = pc.index_in(words, pa.array([token[1:-1] for token in self.vocabulary()]))
        if ids.null_count:
            place = int(pc.index(ids.is_null(), True).as_py())
            item = int(np.searchsorted(starts, place, side="right")) - 1
            raise self._error(name, f"unknown token <{words[place]}>; it is not in {VOCAB}", item)
        return ids.to_numpy().astype(np.int32), starts


def _cut(value: object) -> str:
    """A value as it is written, cut where it would fill a line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def write_published(stored: StoredCorpus, folder: Path) -> None:
    """Write a corpus in the published format, with the keys and the order of probes of the authors' own files.

    Its examples read back the same in every split.

    Raises:
        ParameterError: when the corpus's tokens are not written `<...>`.
    """
    corpus = stored.corpus
    if corpus.separator or not all(re.fullmatch(TOKEN, token) for token in corpus.vocabulary()):
        raise ParameterError("format", f"published: tokens of {room_name(corpus)} are not written <...>; use parquet")
    if isinstance(corpus, Published):
        order, has_types = corpus.probes, corpus.has_types
    else:
        known = ORDER.get(room_name(corpus), ())
        order = (*known, *(split for split in stored.sizes if split not in known))
        has_types = room_name(corpus) != "composition"
    folder.mkdir(parents=True, exist_ok=True)
    _write_items(stored, ["train"], folder / TRAIN, has_types)
    _write_items(stored, [split for split in order if split == "ood"], folder / VALID, has_types)
    _write_items(stored, [split for split in order if split in stored.sizes.keys() - {"train"}], folder / TEST)
    (folder / VOCAB).write_text(json.dumps(corpus.vocabulary()), encoding="utf-8")


def _write_items(stored: StoredCorpus, splits: Sequence[str], path: Path, has_types: bool = True) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write("[")
        for split in splits:
            for block in stored.blocks(split):
                kind = {"type": block.type if split == "train" else TYPES.get(split, split)} if has_types else {}
                texts = (as_text(stored, part).to_pylist() for part in (block.prompts, block.answers))
                items = [{"input_text": p, "target_text": p + a, **kind} for p, a in zip(*texts)]
                file.write(", " * (file.tell() > 1) + json.dumps(items)[1:-1])
        file.write("]")
