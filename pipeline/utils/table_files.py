"""Rows of a user's file: CSV, TSV, JSON lines or a JSON array, in UTF-8, as it is or gzipped."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.utils.errors import RecipeError, in_one_line
from pipeline.utils.suggest import did_you_mean

SEPARATORS = {".csv": ",", ".tsv": "\t"}
GZIP = b"\x1f\x8b"
BLANKS = " \t\r\n"  # what JSON takes for white space
# The longer marks first: that of UTF-16 begins that of UTF-32.
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip


def read_rows(
    path: Path, columns: Sequence[str], content: bytes | None = None, most: int = -1
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row as column -> value, with its place in the file in words. Rows without any value are left out.

    `.csv` and `.tsv` are read as such, in any case and before `.gz`; anything else is a JSON array of objects where it
    begins with a bracket, or else an object a line. The header of a table may write `columns` in any case.

    Args:
        path: The file.
        columns: What the header of a table has to have.
        content: The bytes of the file, where they were read already.
        most: Most bytes that it may have once it is unpacked; -1: any number.

    Raises:
        RecipeError: naming file and line, when the file is not text in UTF-8 or not of its format; when a column of a
            table has no name, or two have the same; or when it has no header with all of `columns`.
    """
    text = _text_of(path, content, most)
    ending = Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()
    if ending in SEPARATORS:
        yield from _from_table(path, text, SEPARATORS[ending], columns)
    elif text.lstrip(BLANKS).startswith("["):
        yield from _array(path, text)
    else:
        yield from _from_json_lines(path, text)


def _text_of(path: Path, content: bytes | None, most: int) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        RecipeError: when it cannot be read, is too large, or is in another encoding than UTF-8.
    """
    try:
        content = path.read_bytes() if content is None else content
        if content.startswith(GZIP):
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
                content = packed.read(most if most < 0 else most + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or in_one_line(error)
        raise RecipeError(str(path), f"cannot be read: {reason}") from None
    if 0 <= most < len(content):
        raise RecipeError(str(path), f"has more than {most >> 20} MB, which is the most")
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), None)
    if encoding or b"\0" in content:  # UTF-16 without a mark is UTF-8 with zeros for most texts
        found = encoding or "UTF-16 or no text at all"
        raise RecipeError(str(path), f"is {found}, not UTF-8; save it as UTF-8, or iconv -f UTF-16 -t UTF-8 FILE")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"is not UTF-8 text: byte 0x{content[error.start]:02x}; save it as UTF-8"
        raise RecipeError(f"{path}, line {line}", problem) from None


def _from_table(path: Path, text: str, separator: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    header: list[str] | None = None
    known = {name.lower(): name for name in columns}
    for line, cells in _records(path, text, separator):
        where = f"{path}, line {line}"
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [known.get(cell.strip().lower(), cell.strip()) for cell in cells]
            _check_header(where, header, separator, columns)
            continue
        if len(cells) > len(header):
            raise RecipeError(
                where, f"has {len(cells)} cells, and the header {len(header)}; quote cells that hold {separator!r}"
            )
        yield where, dict(zip(header, cells))


def _records(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The records of a table, each with the line on which it begins: a quoted cell may hold line breaks."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise RecipeError(f"{path}, line {line}", f"is not CSV: {error}") from None
        yield line, record


def _check_header(where: str, header: list[str], separator: str, columns: Sequence[str]) -> None:
    other = next((sign for sign in ";\t," if sign != separator and len(header) == 1 and sign in header[0]), None)
    if other:
        raise RecipeError(where, f"its columns are separated by {other!r}, not {separator!r}")
    twice = [name for name, count in Counter(header).items() if count > 1 or not name]
    if twice:
        raise RecipeError(where, f"two columns are called {twice[0]}" if twice[0] else "a column has no name")
    for name in columns:
        if name not in header:
            raise RecipeError(where, f"has no {name}; every row has {', '.join(columns)}{did_you_mean(name, header)}")


def _array(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        items = json.loads(text, object_pairs_hook=_with_unique_keys)
    except json.JSONDecodeError as error:
        raise RecipeError(f"{path}, line {error.lineno}", f"is not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(str(path), f"is not a JSON array of rows: {error}") from None
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise RecipeError(f"{path}, item {number}", "is not a JSON object")
        yield f"{path}, item {number}", item


def _from_json_lines(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    # Universal line ends and no others: str.splitlines would also break at U+2028, which JSON strings may hold.
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if not line.strip(BLANKS):
            continue
        where = f"{path}, line {number}"
        try:
            item = json.loads(line, object_pairs_hook=_with_unique_keys)
        except (ValueError, RecursionError) as error:
            reason = str(error) if isinstance(error, _TwiceError) else "is not a JSON object"
            raise RecipeError(where, reason) from None
        if not isinstance(item, dict):
            raise RecipeError(where, "is not a JSON object")
        if item:
            yield where, item


class _TwiceError(ValueError):
    """A key stands twice in a JSON object."""


def _with_unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise _TwiceError(f"{twice} stands twice in an object")
    return found
