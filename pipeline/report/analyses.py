"""What analyses found, as the report shows it: drawn with the parameters that their tables were made with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from pipeline.circuits.base import Explanation
from pipeline.circuits.failures import again, as_line, read_failure, show
from pipeline.circuits.tables import ALL, TableError, analysis_code, origin_of, paths_by_step, read_one
from pipeline.config.coerce import fill
from pipeline.config.fields import parameters_of
from pipeline.config.registry import load
from pipeline.config.yaml_nodes import Block, parse
from pipeline.plots.style import Mark, on_both
from pipeline.report.page import Figure, Heading, Moving, MovingGraph, Paragraph, Part, code, plain
from pipeline.report.sheets import Sheet, table_sheet
from pipeline.runs.layout import CIRCUITS, FIGURES
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.format import listed

# The order in which a page tells of a model; what is not named here stands in the first chapter.
CHAPTERS = {
    "What was learned when": (),
    "Where it is": ("causal_tracing", "patching", "attention"),
    "Which circuit": ("attribution", "faithfulness", "similarity", "components", "eigen", "successor"),
}


def in_chapters(names: Sequence[str]) -> dict[str, list[str]]:
    """Analyses by the chapter of a page that they stand in; chapters without one are left out."""
    found: dict[str, list[str]] = {chapter: [] for chapter in CHAPTERS}
    for name in names:
        chapter = next((chapter for chapter, own in CHAPTERS.items() if name in own), next(iter(CHAPTERS)))
        found[chapter].append(name)
    order = [name for own in CHAPTERS.values() for name in own]
    return {
        chapter: sorted(own, key=lambda name: order.index(name) if name in order else -1)
        for chapter, own in found.items()
        if own
    }


@dataclass
class Drawn:
    """The figures of an analysis by name, and as they are on a narrow page; their tables; the parts of the page.

    `error` is why drawing failed, where it did.
    """

    parts: list[Part]
    figures: dict[str, Any] = field(default_factory=dict)
    narrow: dict[str, Any] = field(default_factory=dict)
    sheets: dict[str, Sheet] = field(default_factory=dict)
    error: Exception | None = None


def draw_analysis(run: Path, name: str, marks: Sequence[Mark]) -> Drawn:
    """What an analysis of a run found, or in a line why there is nothing to see."""
    drawn = Drawn([Heading(name.replace("_", " ").capitalize(), 3)])
    if failure := read_failure(run, name):
        drawn.parts.append(Paragraph(f"It failed: {plain(failure)}. {code(again(run, name))} runs it again."))
    try:
        found = _tables(run, name)
    except TableError as error:
        words = f"A table is damaged: {plain(as_line(error))}. {code(again(run, name))} computes it anew."
        drawn.parts.append(Paragraph(words))
        return drawn
    if not found:
        return drawn
    last = max(found)
    parameters = _table_parameters(found[last])
    alike = {step: table for step, table in found.items() if _table_parameters(table) == parameters}
    if others := [f"{step:,}" for step in sorted(found.keys() - alike.keys())]:
        words = f"step{'s' * (len(others) > 1)} {listed(others)}"
        drawn.parts.append(
            Paragraph(f"Left out is what was made with other parameters than at step {last:,}: {words}.")
        )
    try:
        analysis, lacking = _analysis(name, parameters)
        if lacking:
            keys = listed([code(key) for key in lacking])
            drawn.parts.append(Paragraph(f"Its tables are of an earlier version, which had no {keys}.", note=True))
        _draw(drawn, analysis, name, list(alike.values()), marks)
    except Exception as error:  # a bug in drawing must not take the whole report with it
        if isinstance(error, (ParameterError, RecipeError)) or any(
            _is_foreign(name, table, error) for table in alike.values()
        ):
            words = f"Its tables were written by another version; {code(again(run, name))} computes them anew."
        else:
            show(error)
            drawn.error = error
            words = f"It could not be drawn: {plain(as_line(error))}. Its tables are in `{CIRCUITS}/{name}/`."
        drawn.parts.append(Paragraph(words))
    return drawn


def _draw(drawn: Drawn, analysis: Explanation, name: str, tables: list[pa.Table], marks: Sequence[Mark]) -> None:
    table = pa.concat_tables([table.replace_schema_metadata(None) for table in tables], promote_options="permissive")
    parts: list[Part] = []
    wide, narrow = on_both(lambda: analysis.draw(table, marks))
    for ending, drawing in wide.items():
        figure = "_".join(filter(None, (name, ending)))
        drawn.figures[figure], drawn.narrow[figure] = drawing.figure, narrow[ending].figure
        drawn.sheets[figure] = table_sheet(table if drawing.table is None else drawing.table)
        parts.append(Figure(figure, drawing.alt, drawing.caption))
        if drawing.finding:
            parts.append(Paragraph(drawing.finding))
        if drawing.grids:
            parts.append(Moving(**drawing.grids, axes=drawing.axes, signed=drawing.signed))
        if drawing.frames:
            parts.append(MovingGraph(drawing.frames))
    steps = len(set(table["step"].to_pylist()))
    if metric := getattr(analysis, "metric", None):
        parts.append(Paragraph(f"The metric is {code(metric)}.", note=True))
    where = f"Tables of {steps} {'step' if steps == 1 else 'steps'}: `{CIRCUITS}/{name}/`. "
    where += f"The rows that {'the figure shows' if len(drawn.sheets) == 1 else 'figures show'}: "
    where += f"{listed([f'`{FIGURES}/{figure}.csv`' for figure in drawn.sheets])}."
    drawn.parts += [*parts, Paragraph(where, note=True)]


def _tables(run: Path, name: str) -> dict[int, pa.Table]:
    """The tables of an analysis by step; that of all steps under 0."""
    files, whole = paths_by_step(run, name), run / CIRCUITS / name / f"{ALL}.parquet"
    if not files and whole.is_file():
        return {0: read_one(whole)}
    return {step: read_one(file) for step, file in files.items()}


def _table_parameters(table: pa.Table) -> dict[str, Any]:
    """What a table was made with, as plain values, but for the steps: those are its own."""
    found = origin_of(table).get("parameters")
    return {key: value for key, value in found.items() if key != "steps"} if isinstance(found, dict) else {}


def _analysis(name: str, parameters: Mapping[str, Any]) -> tuple[Explanation, list[str]]:
    """The analysis with these parameters, and those of today that are not among them.

    Raises:
        RecipeError, ParameterError: when it has no such parameter, or allows no such value.
    """
    kind = cast("type[Explanation]", load(CIRCUITS, name, CIRCUITS))
    block = parse(json.dumps(parameters), name)
    lacking = [each.name for each in parameters_of(kind) if each.name not in parameters and each.name != "steps"]
    return fill(kind, block if isinstance(block, Block) else Block({}, name), name, name), lacking if parameters else []


def _is_foreign(name: str, table: pa.Table, error: Exception) -> bool:
    """Whether other code than today's made a table, or it lacks a column that it had, or that it needs."""
    made_of, code = origin_of(table), analysis_code(cast("type[Explanation]", load(CIRCUITS, name, CIRCUITS)))
    if made_of.get("code", code) != code:
        return True
    columns = {field.name: str(field.type) for field in table.schema}
    lacks_column = isinstance(error, KeyError) and "does not exist in schema" in str(error)
    return bool(made_of["columns"] != columns) if "columns" in made_of else lacks_column
