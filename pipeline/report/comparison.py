"""Several runs on one axis: a figure for each split, what each run reached, and where their recipes differ."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from urllib.parse import quote

from pipeline.plots import seeds as plots
from pipeline.plots.axes import StepScale
from pipeline.plots.style import on_both
from pipeline.report.crossing import Crossed
from pipeline.report.curve_values import CurveValues
from pipeline.report.differences import Differences, as_text, short_names
from pipeline.report.page import PAGES, Code, Figure, Heading, Paragraph, Part, Table, code, plain, write_page
from pipeline.report.sheets import Sheet, groups_sheet, results_sheet, sweep_sheet
from pipeline.report.view import ALL_OF_IT, View
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import DELAY, THRESHOLD, UNLEARNED, match_key
from pipeline.runs.layout import RECIPE
from pipeline.utils.drafts import write_inside
from pipeline.utils.errors import RecipeError
from pipeline.utils.format import MISSING, duration, listed, share, times

RESULTS = "results.csv"
NOTE = (
    "Fit and gen step are the first evaluations at which exact match on `train` and on `id`, or else the first "
    f"held-out split, is at least {THRESHOLD}. The grok step is a gen step that is delayed: at least {DELAY} times the "
    f"fit step, or from below {UNLEARNED} at the fit step. Gap: gen step over fit step. Stays: the share of later "
    f"evaluations at {THRESHOLD} or above. {MISSING} where that was not seen. Exact matches are those at the end, of "
    "an unfinished run those of its last evaluation."
)


def write_comparison(
    paths: Sequence[Path], folder: Path, formats: Collection[str] = ("svg",), view: View = ALL_OF_IT
) -> None:
    """A page on several runs, in the order given, and results.csv, a row for each.

    Raises:
        RecipeError: when a path is not a run or is named twice, or `folder` is that of a run.
    """
    resolved = [path.resolve() for path in paths]
    for i, path in enumerate(resolved):
        if path in resolved[:i]:
            raise RecipeError(str(paths[i]), "is named twice; name each run once")
    if (folder / RECIPE).exists():
        raise RecipeError("--output", f"{folder} is the folder of a run; choose another")
    runs = [RunFolder.read(path) for path in paths]
    differences = Differences.of(runs)
    splits = list(dict.fromkeys([split for run in runs for split in run.held_out]))
    names = [name or key for key, name in short_names(differences.values).items()]
    measured = [part for split in splits for part in (split, *_probes(runs, split))]
    title = f"{len(runs)} runs" + (f" over {listed(names)}" if 0 < len(names) <= 4 else "")
    figures, narrow, sheets, shown = {}, {}, dict[str, Sheet](), list[Part]()
    scale = _scale(runs, view.linear)
    colours = ramp(differences)
    for split in view.chosen([*splits, "train"]):
        groups = [
            plots.Group(label, [runs[i].series[match_key(split)] for i in members], colour)
            for label, members, colour in zip(differences.group_labels, differences.groups, colours)
            if all(match_key(split) in runs[i].series for i in members)
        ]
        if groups:
            name = f"match_{split}"
            figures[name], narrow[name] = on_both(partial(plots.comparison, groups, split, scale))
            sheets[name] = groups_sheet(groups, split)
            curves = {group.label: plots.over_seeds(group.runs)[0] for group in groups}
            values = CurveValues.of([figures[name], narrow[name]], scale, curves)
            shown.append(Figure(name, *_texts(split, groups), values))
    if key := differences.swept:
        outcomes = [
            plots.Outcome(value, run.grok.fit_step, run.grok.gen_step, run.last_step)
            for value, run in zip(differences.values[key], runs)
        ]
        figures["sweep"], narrow["sweep"] = on_both(partial(plots.sweep, key, outcomes))
        sheets["sweep"] = sweep_sheet(key, outcomes)
        alt = f"Steps to fit and to generalize over {key}; the numbers are in the table of results."
        caption = f"Steps to fit and to generalize over {code(key)}."
        caption += " Lines lead through means over seeds; an open triangle is a run that had not come so far by then."
        shown.append(Figure("sweep", alt, caption))
    if keys := differences.crossed:
        crossed = Crossed.of(keys, differences.values, runs)
        (figures["crossed"], narrow["crossed"]), sheets["crossed"] = on_both(crossed.figure), crossed.sheet()
        shown += [Figure("crossed", crossed.alt, crossed.caption), *crossed.findings()]
    parts: list[Part] = [
        Heading(plain(title), 1),
        *shown,
        Heading("Results"),
        _results(runs, differences, measured, folder),
        Paragraph(f"{NOTE} `{RESULTS}` has these numbers in full.", note=True),
        *_over_seeds(runs, differences, measured),
        *_differing(runs, differences),
        Heading("To draw it again"),
        Code(shlex.join(["python", "-m", "pipeline.report", *map(str, paths), "--output", str(folder)]), "bash"),
    ]
    results = results_sheet(runs, differences.values).as_csv()
    write_page(folder, title, parts, figures, sheets, formats, broad=True, narrow=narrow)
    write_inside(folder, RESULTS, results)


def _probes(runs: Sequence[RunFolder], split: str) -> list[str]:
    """What is shown beside a split that says little until its facts are known, such as `ood`: how many of them are."""
    if any(split == run.grok.held_out for run in runs):
        return []
    return list(dict.fromkeys(run.fact_probes[split] for run in runs if split in run.fact_probes))


def _scale(runs: Sequence[RunFolder], linear: bool) -> StepScale:
    matches = [run.series[key] for run in runs for key in map(match_key, run.splits) if key in run.series]
    return StepScale.over(max(run.last_step for run in runs), matches, linear)


def ramp(differences: Differences) -> list[str]:
    """A colour for each group; by the value where they are steps of a scale."""
    firsts = [members[0] for members in differences.groups]
    colours = plots.colours(len(firsts), ordered=differences.swept is not None)
    if differences.swept is None:
        return colours
    values = [differences.values[differences.swept][first] for first in firsts]
    return [colours[sorted(values).index(value)] for value in values]


def _texts(split: str, groups: Sequence[plots.Group]) -> tuple[str, str]:
    """Alternative text and caption of a figure."""
    ends = "; ".join(f"{group.label}: {listed([share(run.values[-1]) for run in group.runs])}" for group in groups)
    caption = f"Exact match on `{split}`."
    if words := plots.seeds_words([len(group.runs) for group in groups]):
        caption += f" {words}"
    return f"Exact match on {split} over training steps. At the last evaluation: {ends}.", caption


def _results(runs: Sequence[RunFolder], differences: Differences, splits: Sequence[str], folder: Path) -> Table:
    """What each run reached, with a link to its report, as it lies from the folder of the page."""
    header = ["run", "steps", "fit step", "gen step", "grok step", "gap", "stays", "train", *splits, "time", "folder"]
    rows = []
    for label, run in zip(differences.labels, runs):
        steps = f"{run.last_step:,}" if run.finished else f"{run.last_step:,} of {run.total_steps:,}, unfinished"
        grok = run.grok
        reached = [_step_text(grok.fit_step), _step_text(grok.gen_step), _step_text(grok.grok_step)]
        reached += [times(grok.grok_gap), share(grok.stays)]
        matches = [share(run.at_end(split, "exact_match")) for split in ("train", *splits)]
        rows.append([plain(label), steps, *reached, *matches, duration(run.latest("seconds")), code(run.path)])
    pages = [run.path / PAGES[1] for run in runs]
    links = [quote(os.path.relpath(page, folder)) if page.is_file() else "" for page in pages]
    return Table([plain(cell) for cell in header], rows, "l" + "r" * (len(header) - 2) + "l", links)


def _step_text(step: float | None) -> str:
    return MISSING if step is None else f"{step:,.0f}"


def _over_seeds(runs: Sequence[RunFolder], differences: Differences, splits: Sequence[str]) -> list[Part]:
    if all(len(members) == 1 for members in differences.groups):
        return []

    def cell(found: Sequence[float | None], text: Callable[[float], str]) -> str:
        known = [number for number in found if number is not None]
        if not known:
            return MISSING
        words = text(mean(known)) + (f" ({text(min(known))} to {text(max(known))})" if len(set(known)) > 1 else "")
        return words if len(known) == len(found) else f"{words}, {len(known)} of {len(found)}"

    rows = []
    for label, members in zip(differences.group_labels, differences.groups):
        group = [runs[i] for i in members]
        rows.append([plain(label), str(len(group)), cell([run.grok.fit_step for run in group], _step_text)])
        rows[-1].append(cell([run.grok.gen_step for run in group], _step_text))
        rows[-1].append(cell([run.grok.grok_step for run in group], _step_text))
        rows[-1].append(cell([run.grok.grok_gap for run in group], times))
        rows[-1] += [cell([run.at_end(split, "exact_match") for run in group], share) for split in splits]
    header = ["", "seeds", "fit step", "gen step", "grok step", "gap", *splits]
    note = "Mean, and lowest to highest; `2 of 3` counts the runs that came so far, over which the mean is taken."
    table = Table([plain(cell) for cell in header], rows, "l" + "r" * (len(header) - 1))
    return [Heading("Over seeds"), table, Paragraph(note, note=True)]


def _differing(runs: Sequence[RunFolder], differences: Differences) -> list[Part]:
    devices = [run.starts[-1].get("device") if run.starts else None for run in runs]
    columns = differences.values | ({"device": devices} if len(set(devices)) > 1 else {})
    if not columns:
        return [Heading("What differs"), Paragraph("The recipes are the same.")]
    table = [["run", *map(code, columns)]]
    for i, label in enumerate(differences.labels):
        table.append(
            [plain(label), *(MISSING if found[i] is None else plain(as_text(found[i])) for found in columns.values())]
        )
    if len(columns) > len(runs):  # then a line for each key is easier to read
        table = [list(line) for line in zip(*table)]
    return [Heading("What differs"), Table(table[0], table[1:], "l" * len(table[0]))]
