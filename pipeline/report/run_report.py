"""The report of a run: curves, final numbers beside the paper's, what the analyses found, and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config.registry import names
from pipeline.config.yaml_nodes import MOST_BYTES
from pipeline.plots import training as plots
from pipeline.plots.axes import StepScale
from pipeline.plots.style import on_both
from pipeline.report.analyses import draw_analysis, in_chapters
from pipeline.report.curve_values import CurveValues
from pipeline.report.findings import of_curve, of_training
from pipeline.report.glossary import used_in
from pipeline.report.page import Code, Figure, Heading, Paragraph, Part, Table, code, plain, write_page
from pipeline.report.sheets import Sheet, matches_sheet, metrics_sheet
from pipeline.report.summary import method, outcome, story
from pipeline.report.view import ALL_OF_IT, View
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import THRESHOLD, match_key
from pipeline.runs.layout import CIRCUITS, RECIPE
from pipeline.utils.format import MISSING, amount, listed, share, size, times
from pipeline.utils.inside import read_text


def write_report(path: Path) -> RunFolder:
    """report.md, report.html and figures/ of a run folder, from what lies in it, which is returned."""
    run = RunFolder.read(path)
    draw_report(run)
    return run


def draw_report(run: RunFolder, formats: Collection[str] = ("svg",), view: View = ALL_OF_IT) -> list[str]:
    """As `write_report`; returns the analyses whose figures failed: a line in the report, and a traceback.

    `formats` of figures are svg and pdf, beside PNG.

    Raises:
        RecipeError: when a file in it is damaged.
    """
    page = page_of(run, view, read_text(run.path, RECIPE, MOST_BYTES))
    write_page(run.path, page.title, page.parts, page.figures, page.sheets, formats, narrow=page.narrow)
    return page.failed


class ReportPage(NamedTuple):
    """What a report is written from; `failed` are analyses that could not be drawn."""

    title: str
    parts: list[Part]
    figures: dict[str, Any]
    narrow: dict[str, Any]  # the figures as a narrow page shows them
    sheets: dict[str, Sheet]
    failed: list[str]


def page_of(run: RunFolder, view: View, recipe: str) -> ReportPage:
    """The report of a run, of which nothing is written; `recipe` is the text of the resolved one."""
    path = run.path
    pens = plots.split_pens(run.splits, run.held_out)
    matches = [run.series[match_key(split)] for split in run.splits if match_key(split) in run.series]
    shown_splits = view.chosen(list(pens))
    scale = StepScale.over(run.last_step, matches, view.linear)
    fork = plots.ForkMark(*run.fork) if run.fork else None
    figures, narrow, curve, training = dict[str, Any](), dict[str, Any](), list[Part](), list[Part]()
    sheets = {"curve": matches_sheet(run.series, run.splits), "training": metrics_sheet(run.series)}
    if matches:
        shown_pens = {split: pens[split] for split in shown_splits}
        figures["curve"], narrow["curve"] = on_both(
            lambda: plots.grokking_curve(run.series, shown_pens, run.grok, scale, fork)
        )
        shown_matches = {
            split: run.series[match_key(split)] for split in shown_splits if match_key(split) in run.series
        }
        values = CurveValues.of([figures["curve"], narrow["curve"]], scale, shown_matches)
        curve = [
            Figure("curve", _curve_alt(run), _curve_caption(run), values),
            *_said(of_curve(run)),
            Paragraph(method(run), note=True),
        ]
    if shown := plots.panel_titles(run.series):
        figures["training"], narrow["training"] = on_both(
            lambda: plots.training(run.series, pens, run.grok, scale, fork)
        )
        training = [
            Heading("Loss and norms"),
            Figure(
                "training",
                f"Over training steps: {'; '.join(shown)}.",
                _training_caption(run),
                _values(run, [figures["training"], narrow["training"]], scale),
            ),
            *_said(of_training(run)),
        ]
    circuits, failed = list[Part](), list[str]()
    there = sorted(file.name for file in (path / CIRCUITS).glob("*") if file.name in names("circuits"))
    for chapter, own in in_chapters(there).items():
        circuits.append(Heading(chapter))
        for name in own:
            drawn = draw_analysis(path, name, plots.step_marks(run.grok))
            figures, narrow, sheets = figures | drawn.figures, narrow | drawn.narrow, sheets | drawn.sheets
            circuits += drawn.parts
            failed += [name] if drawn.error else []
    parts: list[Part] = [
        Heading(f"{plain(run.name)}: {plain(outcome(run))}", 1),
        *(Paragraph(text) for text in story(run)),
        *curve,
        *_numbers(run),
        *training,
        *circuits,
        *_kept_part(run),
        Heading("To repeat it"),
        Code(_command(run), "bash"),
        Code(recipe, "yaml", folded="The resolved recipe"),
        Heading("Environment"),
        *_environment(run),
    ]
    said = " ".join(
        part.text if isinstance(part, (Heading, Paragraph)) else getattr(part, "caption", "") for part in parts
    )
    said += " ".join(run.splits)
    parts.append(Table(["word", "what it means"], used_in(said), "ll", folded="The words of this page"))
    return ReportPage(f"{run.name}: {outcome(run)}", parts, figures, narrow, sheets, failed)


def _said(sentence: str) -> list[Part]:
    return [Paragraph(sentence)] if sentence else []


def _values(run: RunFolder, figures: list[Any], scale: StepScale) -> CurveValues | None:
    """The losses and norms at evaluations, or where anything was logged."""
    names = {f"{split} loss": f"eval_{split}_loss" for split in ("train", *run.held_out)}
    names |= {"loss": "loss"} if "eval_train_loss" not in run.series else {}
    names |= {title: key for key, (title, _) in plots.INTERNALS.items()}
    return CurveValues.of(figures, scale, {name: run.series[key] for name, key in names.items() if key in run.series})


def summary(run: RunFolder) -> str:
    """A finished run in a few lines, for the terminal."""
    return "\n".join(["", *story(run), f"report: {run.path / 'report.html'}"])


def _curve_alt(run: RunFolder) -> str:
    ends = [f"{split} {share(run.latest(match_key(split)))}" for split in run.splits if match_key(split) in run.series]
    return f"Exact match over training steps. {run.name} {outcome(run)}. At the last evaluation: {', '.join(ends)}."


def _curve_caption(run: RunFolder) -> str:
    fit, learned, caption = run.grok.fit_step, run.grok.gen_step, "Exact match of every split."
    if fit is not None or learned is not None:
        caption += f" A dot is the first evaluation at {THRESHOLD} or above."
    if run.grok.is_delayed:
        caption += f" Tinted: the training set is fitted, and `{run.grok.held_out}` is not yet learned."
    if run.fork:
        caption += f" Thin and grey, up to step {run.fork[1]:,}: its parent, {code(run.fork[0])}."
    probes = [split for split in run.splits if split != "train" and split not in run.held_out]
    return caption + (" Thin lines are probes of facts that are trained." if probes else "")


def _training_caption(run: RunFolder) -> str:
    caption = "What went on meanwhile; marks as above." if run.evaluations else "What went on."
    if any(0.0 in run.series[key].values for key in map("eval_{}_loss".format, run.splits) if key in run.series):
        caption += " A loss of exactly 0 has no place on its log axis."
    collapse = run.series.get("eval_train_softmax_collapse")
    if collapse and not any(collapse.values):
        caption += " No training answer had a float32 softmax of exactly 1, which would end its gradient."
    return caption


def _numbers(run: RunFolder) -> list[Part]:
    """The final table, beside the paper's numbers where the recipe states them."""
    paper = run.resolved.get("paper") or {}
    stated = {str(key): str(value) for key, value in (paper.get("numbers") or {}).items()}
    title = plain(paper.get("title") or "the paper")
    columns = {"split": "l", "role": "l", "rows measured": "r", "exact match": "r", "loss": "r"}
    decoded = [split for split in run.splits if run.finished and run.latest(_greedy(split)) is not None]
    columns |= {"decoded": "r"} if decoded else {}
    columns |= {"paper": "l"} if stated.keys() & set(run.splits) else {}
    rows = []
    for split in run.splits:
        cells = {
            "split": code(split),
            "role": "held out" if split in run.held_out else "trained" if split == "train" else "probe of train",
            "rows measured": _row_count(run, split),
            "exact match": share(run.at_end(split, "exact_match")),
            "loss": amount(run.at_end(split, "loss")),
            "decoded": share(run.latest(_greedy(split)) if split in decoded else None),
            "paper": plain(stated.get(split, MISSING)),
        }
        rows.append([cells[column] for column in columns])
    if all(run.at_end(split, "exact_match") is None for split in run.splits):
        return []
    heading = "Final numbers" if run.finished else "Numbers so far"
    parts: list[Part] = [Heading(heading), Table(list(columns), rows, "".join(columns.values()))]
    if decoded:
        parts.append(Paragraph(_decoding(run, decoded), note=True))
    others = {key: text for key, text in stated.items() if key not in run.splits}
    if others:
        rows = [[code(key), _measured(run, key), plain(text)] for key, text in others.items()]
        parts.append(Table(["measure", "this run", "paper"], rows, "lrl"))
    if paper.get("title"):
        parts.append(Paragraph(f"{'The paper is' if stated else 'After'} {title}.", note=True))
    return parts


def _greedy(split: str) -> str:
    return match_key(f"{split}_greedy", "final")


def _row_count(run: RunFolder, split: str) -> str:
    count, total = run.measured_rows(split, sampled=not run.finished), run.corpus["sizes"][split]
    return f"{count:,}" if count == total else f"{count:,} of {total:,}"


def _decoding(run: RunFolder, decoded: list[str]) -> str:
    text = "Exact match is counted in one pass that is given the true answer up to each token. "
    text += "Decoded: for a sample of these rows, with answers that `generate` writes greedily, token by token"
    alike = {split: run.latest(f"final_{split}_greedy_agreement") for split in decoded}
    found = [f"{share(value)} of the sample of `{split}`" for split, value in alike.items() if value is not None]
    if found:
        text += f"; the two judge {'all of it' if set(alike.values()) == {1.0} else listed(found)} alike"
    return f"{text}."


def _measured(run: RunFolder, key: str) -> str:
    """What this run has for a key of the paper's numbers."""
    found = run.grok.summary()
    value = found[key] if key in found else run.latest(key)
    is_share = key == "stays" or "exact_match" in key
    return times(value) if key == "grok_gap" else share(value) if is_share else amount(value)


def _kept_part(run: RunFolder) -> list[Part]:
    steps = sorted(run.manifest.kept)
    if not steps:
        return []
    total = sum(facts["bytes"] for entry in run.manifest.kept.values() for facts in entry.files.values())
    shown = [f"{step:,}" for step in steps]
    if len(shown) > 24:
        shown = [*shown[:12], "…", *shown[-4:]]
    text = f"{len(steps)} {'step' if len(steps) == 1 else 'steps'}, {size(total)}: {', '.join(shown)}. "
    text += "The weights of step N are the folder `steps/stepN`, their hashes in `manifest.json`."
    return [Heading("Kept weights"), Paragraph(text)]


def _command(run: RunFolder) -> str:
    processes = run.starts[-1].get("processes", 1) if run.starts else 1
    launcher = f"accelerate launch --num_processes {processes} pipeline/run.py"
    recipe, again = shlex.quote(str(run.path / RECIPE)), shlex.quote(f"{run.path}-again")
    return f"{launcher if processes > 1 else 'python -m pipeline.run'} {recipe} --output_dir {again}"


def _environment(run: RunFolder) -> list[Part]:
    corpus = [["corpus", f"{code(run.corpus['name'])}, content hash {code(run.corpus['content_hash'][:16])}"]]
    if not run.starts:
        return [Paragraph("`environment.json` is missing, so nothing is known of what this ran on."), _listing(corpus)]
    start = run.starts[-1]
    rows = [
        [key, plain(start[key])] for key in ("started", "device", "processes", "python", "platform") if key in start
    ]
    rows.append(["code", code(start["revision"]) if start.get("revision") else "not from a git checkout"])
    rows.append(["command", code(shlex.join(start.get("command", [])))])
    rows.append(
        ["packages", plain(", ".join(f"{name} {version}" for name, version in start.get("packages", {}).items()))]
    )
    if len(run.starts) > 1:
        rows.insert(0, ["starts", f"{len(run.starts)}; below is the last"])
    return [_listing(rows + corpus)]


def _listing(rows: list[list[str]]) -> Table:
    return Table(["", ""], rows, "ll")
