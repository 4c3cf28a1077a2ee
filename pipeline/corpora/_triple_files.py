"""Triples of head, relation and tail in a user's file: CSV, TSV, JSON or JSON lines, in UTF-8."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.table_files import read_rows

COLUMNS = ("head", "relation", "tail")
KINDS = (".csv", ".tsv", ".json", ".jsonl")
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

    def _cells(self) -> Iterator[tuple[str, list[Any]]]:
        """Head, relation and tail of each fact, with its place.

        2WikiMultiHopQA (Ho et al. 2020) has questions that carry their facts as `evidences`.
        """
        if self.path.suffix.lower() not in KINDS:
            raise self.error("", f"is of no kind that is known; allowed: {', '.join(KINDS)}")
        try:
            for where, row in read_rows(self.path, COLUMNS, self.content(), MOST_BYTES):
                place = where.removeprefix(f"{self.path}, ")
                if "evidences" not in row:
                    if lacking := [name for name in COLUMNS if name not in row]:
                        raise self.error(place, f"has no {lacking[0]}; allowed: {', '.join(COLUMNS)}, or evidences")
                    yield place, [row[name] for name in COLUMNS]
                    continue
                if not isinstance(row["evidences"], list):
                    raise self.error(place, "evidences is no list")
                for fact in row["evidences"]:
                    if not isinstance(fact, list) or len(fact) != len(COLUMNS):
                        raise self.error(place, f"evidences holds what is no list of {', '.join(COLUMNS)}")
                    yield place, fact
        except RecipeError as error:
            raise ParameterError(self.key, str(error)) from None
