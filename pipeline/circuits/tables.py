"""The tables of the analyses in a run folder: one Parquet file a step, which says what it was computed from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.circuits.base import Explanation, Pairs
from pipeline.runs.layout import CIRCUITS
from pipeline.utils.code_hash import code_hash
from pipeline.utils.drafts import write_inside
from pipeline.utils.errors import ParameterError, RecipeError, in_one_line
from pipeline.utils.inside import open_file

ALL = "all"  # the name of a table of all steps
MADE_OF = b"groklab"  # key of a table's metadata: what it was computed from


class TableError(RecipeError):
    """A table is damaged, or is none."""


def fingerprint(pairs: Pairs) -> str:
    """A hash of all that stands in pairs."""
    facts = [list(pairs.notes), list(pairs.places), pairs.metadata, *pairs.values]
    digest = hashlib.sha256(json.dumps(facts).encode())
    parts = (pairs.clean, pairs.corrupted, pairs.answers, pairs.corrupted_answers, pairs.lengths)
    for part in (*parts, *pairs.notes.values()):
        digest.update(np.ascontiguousarray(part, dtype="<i4").tobytes())
    for part in pairs.values.values():
        digest.update(np.ascontiguousarray(part, dtype="<f8").tobytes())
    return digest.hexdigest()[:16]


def analysis_code(kind: type[Explanation]) -> str:
    """A hash of the code of an analysis and of the helpers that it imports."""
    return code_hash([kind.__module__], "pipeline.circuits")


def add_step(table: pa.Table, step: int) -> pa.Table:
    return table.add_column(0, "step", pa.array([step] * len(table), pa.int64()))


def is_made_of(path: Path, made_of: Mapping[str, Any]) -> bool:
    """Whether a table is there, whole, and was computed from just this."""
    try:
        table = read_one(path)
    except TableError:
        return False
    return origin_of(table) == _with_columns(table, made_of)


def write_table(root: Path, name: str, table: pa.Table, made_of: Mapping[str, Any]) -> None:
    """Writes or replaces a table by its name in a folder, in one step; it is on the disk when this returns."""
    metadata = {**(table.schema.metadata or {}), MADE_OF: json.dumps(_with_columns(table, made_of))}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, write_page_checksum=True)
    write_inside(root, name, sink.getvalue().to_pybytes())


def origin_of(table: pa.Table) -> dict[str, Any]:
    """What a table says that it was computed from; empty where it says nothing that can be read."""
    try:
        written = json.loads((table.schema.metadata or {}).get(MADE_OF, b"null"))
    except (ValueError, RecursionError):
        return {}
    return written if isinstance(written, dict) else {}


def _with_columns(table: pa.Table, made_of: Mapping[str, Any]) -> Any:
    """What a table was computed from, with the columns that it has, as JSON gives it back."""
    columns = {field.name: str(field.type) for field in table.schema}
    return json.loads(json.dumps({**made_of, "columns": columns, "rows": len(table)}))


def read_one(path: Path) -> pa.Table:
    """A table from its file, its bytes checked.

    Raises:
        TableError: when it is not there, damaged, or no table of a step.
    """
    try:
        # Whatever the path names, one file: pyarrow would read a folder as a data set.
        with open(open_file(path.parent, path.name), "rb") as file:
            table = pq.ParquetFile(file, page_checksum_verification=True).read()
        written, columns = origin_of(table), _with_columns(table, {})["columns"]
    except (RecipeError, OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise TableError(str(path), f"is no whole table: {in_one_line(error, 200)}") from error
    is_ours = MADE_OF in (table.schema.metadata or {}) and "step" in columns
    if not is_ours or written.get("columns") not in (None, columns):  # earlier code wrote no columns
        raise TableError(str(path), "is no table of an analysis")
    return table


def paths_by_step(run: Path, analysis: str) -> dict[int, Path]:
    """The files of an analysis's tables by step, in order."""
    found = {}
    for path in (run / CIRCUITS / analysis).glob("step*.parquet"):
        if match := re.fullmatch(r"step(0|[1-9]\d{0,17})\.parquet", path.name):
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def by_step(run: Path, analysis: str) -> dict[int, pa.Table]:
    """The tables of an analysis that was run, by step.

    Raises:
        ParameterError: when it was not.
        TableError: when one is damaged.
    """
    files = paths_by_step(run, analysis)
    if not files:
        raise ParameterError("against", f"{run} has no tables of {analysis}; run that analysis on it first")
    return {step: read_one(file) for step, file in files.items()}


def read_table(run: Path, analysis: str) -> pa.Table:
    """All steps of an analysis, in order.

    Raises:
        TableError: when it was not run, or a table is damaged or of another kind than the others.
    """
    folder = run / CIRCUITS / analysis
    files = list(paths_by_step(run, analysis).values()) or [folder / f"{ALL}.parquet"]
    tables = [read_one(file).replace_schema_metadata(None) for file in files]
    try:
        return pa.concat_tables(tables, promote_options="permissive")  # a column may be null at a step
    except (pa.ArrowException, ValueError) as error:
        raise TableError(str(folder), f"holds tables of different kinds: {in_one_line(error, 200)}") from None
