"""Numbers behind a page as CSV: a table for each figure, and what came of every run of a comparison."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.plots.seeds import Group, Outcome
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import match_key
from pipeline.runs.metrics import Series
from pipeline.utils.format import no_formula

if TYPE_CHECKING:
    import pyarrow as pa


class Sheet(NamedTuple):
    """Columns, and rows whose cells are plain values; None where there is nothing."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def as_csv(self) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(map(_cell, self.columns))
        writer.writerows([_cell(value) for value in row] for row in self.rows)
        return text.getvalue().encode("utf-8", "replace")


def matches_sheet(series: Mapping[str, Series], splits: Iterable[str]) -> Sheet:
    """The exact match of every split of a run at each evaluation."""
    found = {split: series[match_key(split)] for split in splits if match_key(split) in series}
    return Sheet(
        ("step", "split", "exact_match"),
        [(step, split, value) for split, each in found.items() for step, value in zip(*each)],
    )


def metrics_sheet(series: Mapping[str, Series]) -> Sheet:
    """Everything else that a run has logged while training."""
    found = {key: each for key, each in series.items() if not key.endswith("_exact_match")}
    rows = [(step, key, value) for key, each in found.items() for step, value in zip(*each)]
    return Sheet(("step", "metric", "value"), rows)


def table_sheet(table: pa.Table) -> Sheet:
    """The rows of an analysis's table that a figure was drawn from."""
    return Sheet(table.column_names, list(zip(*(column.to_pylist() for column in table.columns))))


def groups_sheet(groups: Sequence[Group], split: str) -> Sheet:
    """The exact match of several runs on a split; runs of a label differ in their seed alone."""
    rows = [
        (group.label, number, step, value)
        for group in groups
        for number, each in enumerate(group.runs)
        for step, value in zip(*each)
    ]
    return Sheet(("runs", "number", "step", f"{split}_exact_match"), rows)


def sweep_sheet(key: str, outcomes: Sequence[Outcome]) -> Sheet:
    """Steps to fit and to generalize over the key that is swept."""
    return Sheet((key, "fit_step", "gen_step", "last_step"), outcomes)


def results_sheet(runs: Sequence[RunFolder], differing: Mapping[str, Sequence[Any]]) -> Sheet:
    """A row for each run: its folder, the keys in which recipes differ, what was reached, and how it ended."""
    splits = list(dict.fromkeys(split for run in runs for split in run.splits))
    measures = [(split, what) for split in splits for what in ("exact_match", "loss")]
    reached = ("fit_step", "gen_step", "grok_step", "grok_gap", "stays")
    columns = ["run", *differing, "steps", "total_steps", "finished", *reached]
    columns += [*(f"{split}_{what}" for split, what in measures), "seconds"]
    rows = [
        [
            str(run.path),
            *(found[i] for found in differing.values()),
            run.last_step,
            run.total_steps,
            run.finished,
            *(getattr(run.grok, name) for name in reached),
            *(run.at_end(split, what) if split in run.splits else None for split, what in measures),
            run.latest("seconds"),
        ]
        for i, run in enumerate(runs)
    ]
    return Sheet(columns, rows)


def _cell(value: Any) -> Any:
    """A value as CSV has it: booleans as in recipes, lists and blocks as JSON, no formulas, nothing for None."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return no_formula(value)
    return json.dumps(value) if isinstance(value, (list, dict)) else value
