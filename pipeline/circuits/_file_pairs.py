"""Pairs of clean and corrupted prompts for the analyses, from a file of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.circuits.base import Corruption, Pairs, Source
from pipeline.corpora.base import Ids
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.suggest import did_you_mean
from pipeline.utils.table_files import read_rows

COLUMNS = ("clean", "corrupted", "answer", "corrupted_answer")
ID = "id"  # a column that names the row, also where it happens to hold tokens


@dataclass(frozen=True)
class FilePairs(Source):
    """Pairs of a file, whatever the split: every row has clean, corrupted, answer and corrupted_answer.

    They are text for the tokenizer, or lists of token ids; an answer is its first token. Further columns stay beside
    the table as its metadata; one that holds a single known token in each row, and is not called id, is a note too. See
    `pipeline.utils.table_files` for the formats.
    """

    path: Path
    tokenizer: Any
    pad: int = 0

    def pairs(
        self, split: str, most: int, seed: int, every_position: bool = False, corruption: Corruption = "corpus"
    ) -> Pairs:
        rows, notes = self._rows
        drawn = np.sort(Draws(seed, "pairs").choose(len(rows), min(most, len(rows))))
        chosen = [rows[i] for i in drawn]
        lengths = np.array([len(ids["clean"]) for ids, _ in chosen], np.int64)
        sides = [np.full((len(chosen), lengths.max()), self.pad, np.int32) for _ in range(2)]
        for side, name in zip(sides, COLUMNS):
            for i, (ids, _) in enumerate(chosen):
                side[i, : lengths[i]] = ids[name]
        first = [np.array([ids[name][:1] for ids, _ in chosen], np.int32) for name in COLUMNS[2:]]
        further = dict.fromkeys(name for _, row in chosen for name in row if name not in COLUMNS)
        return Pairs(
            sides[0], sides[1], first[0], first[1],
            {name: tokens[drawn] for name, tokens in notes.items()}, lengths,
            metadata={name: [row.get(name) for _, row in chosen] for name in further},
        )  # fmt: skip

    def successors(self) -> Pairs:
        return self.pairs("", len(self._rows[0]), 0)

    def prompts(self, split: str, most: int, seed: int) -> Pairs:
        return self.pairs(split, most, seed)

    def classes(self, split: str, most: int, seed: int, names: Sequence[str] = ()) -> Pairs:
        """By a column `class` of the clean prompts, or else by their answers; without names there have to be two."""
        found = self.pairs(split, len(self._rows[0]), seed)
        words = [str(label) for label in found.metadata.get("class", found.answers[:, 0].tolist())]
        if "class" not in found.metadata and self.tokenizer is not None:
            words = [self.tokenizer.decode([int(word)]).strip() for word in words]
        for name in names:
            if name not in words:
                raise ParameterError("classes", f"no prompt is of {name!r}{did_you_mean(name, sorted(set(words)))}")
        kept = [row for row, word in enumerate(words) if not names or word in names][:most]
        return dataclasses.replace(
            found.take(kept), metadata={**found.take(kept).metadata, "class": [words[row] for row in kept]}
        )

    @cached_property
    def _rows(self) -> tuple[list[tuple[dict[str, list[int]], dict[str, Any]]], dict[str, Ids]]:
        """Token ids by column beside the row as it was read, checked; and the notes of all rows.

        Raises:
            RecipeError: naming file and place, when a row lacks a column, its prompts differ in length or not at all,
                or its answers begin with the same token; or when there is none.
        """
        rows = []
        for where, row in read_rows(self.path, COLUMNS):
            for name in COLUMNS:
                if row.get(name) in (None, "", []):
                    hint = did_you_mean(name, [key for key in row if key not in COLUMNS]) if name not in row else ""
                    raise RecipeError(where, f"has no {name}; every row has {', '.join(COLUMNS)}{hint}")
            ids = {name: self._required(row[name], where, name) for name in COLUMNS}
            if len(ids["clean"]) != len(ids["corrupted"]):
                many, few = len(ids["clean"]), len(ids["corrupted"])
                raise RecipeError(where, f"clean has {many} tokens and corrupted {few}; they have to be equally long")
            if ids["clean"] == ids["corrupted"]:
                raise RecipeError(where, "clean and corrupted are the same")
            if ids["answer"][0] == ids["corrupted_answer"][0]:
                raise RecipeError(where, "answer and corrupted_answer begin with the same token")
            rows.append((ids, row))
        if not rows:
            raise RecipeError(str(self.path), "holds no pair")
        notes = {}
        for name in rows[0][1]:
            if name not in (*COLUMNS, ID):
                found = [self._ids(row.get(name)) for _, row in rows]
                if all(len(tokens) == 1 for tokens in found):
                    notes[name] = np.array([tokens[0] for tokens in found], np.int32)
        return rows, notes

    def _required(self, value: Any, where: str, name: str) -> list[int]:
        if ids := self._ids(value):
            return ids
        if isinstance(value, str):
            raise RecipeError(where, f"{name} {value!r} has a token that the tokenizer does not know")
        what = "is neither text nor a list of token ids of the model"
        if isinstance(value, int) and not isinstance(value, bool):
            what += f'; write "{value}" for the text, [{value}] for the token id'
        raise RecipeError(where, f"{name} {what}")

    def _ids(self, value: Any) -> list[int]:
        """The token ids of a cell; none where it is neither text that the tokenizer knows nor a list of token ids."""
        from pipeline.data.tokenizer import UnknownWordsError, encode

        if isinstance(value, list):
            known = 2**31 if self.tokenizer is None else len(self.tokenizer)
            return value if all(type(token) is int and 0 <= token < known for token in value) else []
        if not isinstance(value, str) or self.tokenizer is None:
            return []
        try:
            (ids,) = encode(self.tokenizer, [value], add_special_tokens=False)
        except UnknownWordsError:
            return []
        return ids
