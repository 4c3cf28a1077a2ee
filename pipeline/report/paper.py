"""The curves of runs as figures for a paper, beside the report, with the tables that they were drawn from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from pipeline.plots import paper
from pipeline.plots.axes import StepScale
from pipeline.plots.formats import pictures
from pipeline.plots.seeds import Group
from pipeline.plots.style import Mark
from pipeline.plots.training import split_pens, step_marks
from pipeline.report.comparison import ramp
from pipeline.report.differences import Differences
from pipeline.report.sheets import groups_sheet, matches_sheet
from pipeline.report.view import View
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import match_key
from pipeline.runs.layout import FIGURES
from pipeline.utils.drafts import write_inside
from pipeline.utils.errors import RecipeError
from pipeline.utils.inside import opened


def write_figures(paths: Sequence[Path], folder: Path, view: View, width: str, formats: Collection[str]) -> list[Path]:
    """The curve of one run, or of several a figure for each split; returns the files.

    Raises:
        RecipeError: when a path is no run, or has no such split, or nothing was measured.
    """
    runs = [RunFolder.read(path) for path in paths]
    every = list(dict.fromkeys(split for run in runs for split in run.splits))
    splits = [split for split in view.chosen(every) if any(match_key(split) in run.series for run in runs)]
    measured = [run.series[match_key(split)] for run in runs for split in splits if match_key(split) in run.series]
    if not measured:
        raise RecipeError(str(paths[0]), "has no evaluations to draw yet")
    scale = StepScale.over(max(run.last_step for run in runs), measured, view.linear)
    found = {}
    if len(runs) == 1:
        (run,) = runs
        pens = split_pens(run.splits, run.held_out)
        groups = [Group(split, [run.series[match_key(split)]], pens[split].colour) for split in splits]
        marks: list[Mark] = step_marks(run.grok)
        found["curve_paper"] = paper.curves(groups, scale, width, marks=marks), matches_sheet(run.series, splits)
    else:
        differences = Differences.of(runs)
        for split in splits:
            groups = [
                Group(label, [runs[i].series[match_key(split)] for i in members], colour)
                for label, members, colour in zip(differences.group_labels, differences.groups, ramp(differences))
                if all(match_key(split) in runs[i].series for i in members)
            ]
            if groups:
                figure = paper.curves(groups, scale, width, f"exact match on {split}")
                found[f"match_{split}_paper"] = figure, groups_sheet(groups, split)
    written = []
    with opened(folder, FIGURES, make=True):
        pass
    for name, (figure, sheet) in found.items():
        contents = pictures(figure, formats) | {"csv": sheet.as_csv()}
        for ending, content in contents.items():
            write_inside(folder, f"{FIGURES}/{name}.{ending}", content)
            written.append(folder / FIGURES / f"{name}.{ending}")
    return written
