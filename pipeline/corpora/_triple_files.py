"""Triples of head, relation and tail in a user's file: CSV, TSV, JSON or JSON lines, in UTF-8."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.utils.errors import ParameterError
from pipeline.utils.suggest import did_you_mean

COLUMNS = ("head", "relation", "tail")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
MOST_BYTES, MOST_FACTS, LONGEST_NAME = 64 << 20, 1_000_000, 200

Triple = tuple[str, str, str]


class TripleFile(NamedTuple):
    """A file of triples, which is read in one piece of bounded size; `key` is the parameter that names it."""

    path: Path
    key: str

    def error(self, place: str, message: str) -> ParameterError:
        return ParameterError(self.key, f"{self.path}{place and ', '}{place}: {message}")

    def content(self) -> bytes:
        """The bytes of the file.

        Raises:
            ParameterError: when it is no plain file, cannot be read, or is too large.
        """
        try:
            if not self.path.is_file():
                raise self.error("", "is not there" if not self.path.exists() else "is no file")
            with open(self.path, "rb") as file:
                found = file.read(MOST_BYTES + 1)
        except (OSError, ValueError) as error:
            if isinstance(error, ParameterError):
                raise
            raise self.error("", f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if len(found) > MOST_BYTES:
            raise self.error("", f"has more than {MOST_BYTES >> 20} MB, which is the most")
        return found

    def facts(self, several_tails: str) -> list[Triple]:
        """Every fact once, in the order of the file; one head and relation have one tail.

        Args:
            several_tails: What becomes of a further tail: `refuse`, or keep the `first`.

        Raises:
            ParameterError: at the first mistake, with its place in the file.
        """
        tails: dict[tuple[str, str], tuple[str, str]] = {}
        for place, cells in self._cells():
            head, relation, tail = (self._name(place, column, cell) for column, cell in zip(COLUMNS, cells))
            known, where = tails.setdefault((head, relation), (tail, place))
            if known != tail and several_tails == "refuse":
                raise self.error(
                    place,
                    f"{head!r} {relation!r} is {tail!r}, and {known!r} at {where}; allowed: one tail for each head and "
                    "relation, or several_tails: first",
                )
            if len(tails) > MOST_FACTS:
                raise self.error(place, f"is beyond {MOST_FACTS:,} facts, which are the most")
        if not tails:
            raise self.error("", f"holds no fact; allowed: rows of {', '.join(COLUMNS)}")
        return [(head, relation, tail) for (head, relation), (tail, _) in tails.items()]

    def _name(self, place: str, column: str, cell: Any) -> str:
        """A name, with single spaces between its words."""
        if not isinstance(cell, str) or not cell.strip():
            raise self.error(
                place, f"{column} is {'empty' if cell in ('', None) or isinstance(cell, str) else 'no text'}"
            )
        name = " ".join(cell.split())
        if len(name) > LONGEST_NAME:
            raise self.error(place, f"{column} has {len(name):,} characters; allowed: {LONGEST_NAME}")
        if not name.isprintable() or set(name) & set("<>"):
            raise self.error(place, f"{column} {name!a} holds a control character, a < or a >")
        return name

    def _cells(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        content = self.content()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise self.error(f"line {line}", f"is not UTF-8: byte 0x{content[error.start]:02x}") from None
        if "\0" in text:
            raise self.error(
                f"line {text[: text.index(chr(0))].count(chr(10)) + 1}", "holds a zero byte; save it as UTF-8"
            )
        separator = SEPARATORS.get(self.path.suffix.lower())
        if separator:
            return self._table(text, separator)
        if self.path.suffix.lower() not in (".json", ".jsonl"):
            raise self.error("", "is of no kind that is known; allowed: .csv, .tsv, .json, .jsonl")
        return self._items(text)

    def _table(self, text: str, separator: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
        reader, places = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True), None
        while True:
            place = f"line {reader.line_num + 1}"
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise self.error(place, f"is not CSV: {error}") from None
            if not any(cell.strip() for cell in row):
                continue
            if places is None:
                places, width = self._header(place, row, separator), len(row)
            elif len(row) != width:
                raise self.error(
                    place, f"has {len(row)} cells, and the header {width}; quote cells that hold {separator!r}"
                )
            else:
                yield place, tuple(row[i] for i in places)

    def _header(self, place: str, row: list[str], separator: str) -> list[int]:
        names = [cell.strip().lower() for cell in row]
        lacking = [name for name in COLUMNS if names.count(name) != 1]
        if lacking:
            raise self.error(
                place,
                f"the header has {names.count(lacking[0]) or 'no'} {lacking[0]}{did_you_mean(lacking[0], names)}; "
                f"allowed: {', '.join(COLUMNS)}, each once, separated by {separator!r}",
            )
        return [names.index(name) for name in COLUMNS]

    def _items(self, text: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
        for place, item in self._objects(text):
            if not isinstance(item, dict):
                raise self.error(place, "is no JSON object")
            if "evidences" not in item:  # of 2WikiMultiHopQA (Ho et al. 2020), whose questions carry their facts
                if lacking := [name for name in COLUMNS if name not in item]:
                    raise self.error(place, f"has no {lacking[0]}; allowed: {', '.join(COLUMNS)}, or evidences")
                yield place, tuple(item[name] for name in COLUMNS)
                continue
            if not isinstance(item["evidences"], list):
                raise self.error(place, "evidences is no list")
            for fact in item["evidences"]:
                if not isinstance(fact, list) or len(fact) != len(COLUMNS):
                    raise self.error(place, f"evidences holds what is no list of {', '.join(COLUMNS)}")
                yield place, tuple(fact)

    def _objects(self, text: str) -> Iterator[tuple[str, Any]]:
        try:
            if text.lstrip().startswith("["):
                yield from ((f"item {number}", item) for number, item in enumerate(json.loads(text), 1))
                return
        except json.JSONDecodeError as error:
            raise self.error(f"line {error.lineno}", f"is not JSON: {error.msg}") from None
        except (ValueError, RecursionError) as error:
            raise self.error("", f"is not JSON: {error}") from None
        for number, line in enumerate(io.StringIO(text, newline=None), 1):
            if line.strip():
                try:
                    yield f"line {number}", json.loads(line)
                except (ValueError, RecursionError):
                    raise self.error(f"line {number}", "is not JSON; allowed: one list, or an object a line") from None
