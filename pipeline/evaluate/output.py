"""Results of an evaluation for people and for programs: aligned text, CSV, JSON or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.utils.format import MISSING, amount, no_formula, share

FORMATS = ("text", "csv", "json", "parquet")


def format_of(name: str | None, output: Path | None) -> str:
    """The format that was asked for, or else that of the name of the file."""
    ending = output.suffix[1:] if output else ""
    return name or (ending if ending in FORMATS else "text")


def as_text(found: Sequence[dict[str, Any]]) -> str:
    """A table whose columns are aligned; columns in which nothing stands are left out."""
    header = {
        "step": "step", "split": "split", "by": "by", "value": "value", "rows": "rows", "exact_match": "exact match",
        "greedy_exact_match": "decoded", "loss": "loss",
    }  # fmt: skip
    shown = [name for name in header if any(row[name] is not None for row in found)]
    lines = [[header[name] for name in shown], *([_cell(name, row[name]) for name in shown] for row in found)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    left = {"split", "by", "value"}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if name in left else cell.rjust(width) for name, cell, width in zip(shown, line, widths)
        ).rstrip()
        for line in lines
    )


def as_bytes(found: Sequence[dict[str, Any]], columns: Sequence[str], form: str) -> bytes:
    """The whole table as CSV, JSON (a list of objects) or Parquet."""
    if form == "json":
        return (json.dumps(list(found), indent=1) + "\n").encode()
    if form == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: no_formula(value) if isinstance(value, str) else value for name, value in row.items()}
            for row in found
        )
        return text.getvalue().encode()
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"step": pa.int64(), "rows": pa.int64(), "greedy_rows": pa.int64()}
    kinds |= dict.fromkeys(("exact_match", "loss", "greedy_exact_match"), pa.float64())
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in columns])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(found), schema), sink)
    return sink.getvalue()


def _cell(name: str, value: Any) -> str:
    if name in ("exact_match", "greedy_exact_match"):
        return share(value)
    if name == "loss":
        return amount(value)
    return MISSING if value is None else f"{value:,}" if isinstance(value, int) else str(value)
