"""Pages of claims: one of what was found, and one of all that is recorded."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipeline.claims.base import Claim, Found
from pipeline.claims.record import ours
from pipeline.config.registry import load, names
from pipeline.plots.base import Drawing
from pipeline.report.page import Code, Figure, Heading, Paragraph, Part, Table, code, plain, write_page
from pipeline.report.sheets import Sheet
from pipeline.utils.format import MISSING

HEADER = ("number", "the paper", "holds where", "ours", "verdict")


def drawing_of(claim: Claim, found: Found) -> Drawing | None:
    """The figure of a claim, once every arm has a finished run."""
    return claim.draw(found) if all(found.arms.values()) else None


def sheet_of(found: Found) -> Sheet:
    """What the figure of a claim is drawn from: evaluations of its runs, and at their last step what is measured."""
    rows = list[tuple[Any, ...]]()
    for arm, runs in found.arms.items():
        for one in runs:
            curves = {key: series for key, series in one.run.series.items() if key.startswith("eval_")}
            rows += [(arm, one.seed, step, key, value) for key, line in curves.items() for step, value in zip(*line)]
            rows += [(arm, one.seed, one.run.last_step, key, value) for key, value in one.values.items()]
    return Sheet(("arm", "seed", "step", "measure", "value"), rows)


def write_claim(
    folder: Path, facts: Mapping[str, Any], drawing: Drawing | None, sheet: Sheet, formats: Collection[str]
) -> None:
    """report.html, report.md and figures/ of a claim's runs; beside the figure, in `formats`, lies its `sheet`."""
    name = facts["claim"]
    figures = {} if drawing is None else {name: drawing.figure}
    parts = [*_claim_parts(facts, level=1), *_arms(facts)]
    if drawing is not None:
        parts.insert(3, Figure(name, plain(drawing.alt), plain(drawing.caption)))
    write_page(folder, name, parts, figures, {name: sheet}, formats)


def _claim_parts(facts: Mapping[str, Any], level: int) -> list[Part]:
    kind: Any = load("claims", facts["claim"], "claims")
    paper, seeds = facts["paper"], ", ".join(map(str, facts["seeds"]))
    about = f"{paper['authors']}, {paper['where']}, arXiv {paper['arxiv']}. Budget {facts['budget']}, seeds {seeds}, "
    about += f"on {facts['machine']}; revision {(facts['revision'] or 'unknown')[:12]}."
    rows = [
        [*(plain(judged[key]) for key in ("name", "paper", "holds")), plain(ours(judged)), plain(judged["verdict"])]
        for judged in facts["targets"]
    ]
    note = "Ours: the median over seeds, and in brackets their range, or from five on a bootstrap interval (95 %)."
    return [
        Heading(plain(facts["claim"]), level),
        Paragraph(plain((kind.__doc__ or "").strip().partition("\n")[0])),
        Paragraph(plain(about), note=True),
        Table(HEADER, rows, "lllll"),
        Paragraph(note, note=True),
        Code(facts["command"], "bash"),
    ]


def _arms(facts: Mapping[str, Any]) -> list[Part]:
    """Every run with its numbers."""
    runs = [(arm, run) for arm, about in facts["arms"].items() for run in about["runs"]]
    keys = list(dict.fromkeys(key for _, run in runs for key in run["values"]))  # arms may have other ones
    rows = [
        [plain(arm), str(run["seed"]), f"{run['steps']:,}", *(_number_text(run["values"], key) for key in keys)]
        for arm, run in runs
    ]
    table = Table(["arm", "seed", "steps", *map(code, keys)], rows, "l" + "r" * (2 + len(keys)))
    return [Heading("Runs"), *([table] if rows else [])]


def _number_text(values: Mapping[str, float | None], key: str) -> str:
    if key not in values:
        return MISSING
    value = values[key]
    return "not reached" if value is None else f"{value:.4g}"


def gallery(results: Mapping[str, Mapping[str, Any]], pictures: Path, ending: str = "png") -> str:
    """One HTML page of all recorded claims, with their figures inside; it needs nothing beside it.

    Figures are PNG, or with `ending` svg vector graphics, where they were recorded as such.
    """
    import jinja2

    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        Path(__file__).with_name("gallery.html.j2").read_text(encoding="utf-8")
    )
    kinds: dict[str, Any] = {name: load("claims", name, "claims") for name in names("claims")}
    found = [
        {
            "name": name,
            "about": (kind.__doc__ or "").strip().partition("\n")[0],
            "paper": kind.paper,
            "facts": results.get(name),
            "picture": _data_address(pictures / f"{name}.{ending}") or _data_address(pictures / f"{name}.png"),
        }
        for name, kind in kinds.items()
    ]
    return template.render(claims=found, header=HEADER, ours=ours)


def _data_address(path: Path) -> str | None:
    """A picture as a data address, or None where there is none."""
    kind = {".png": "image/png", ".svg": "image/svg+xml"}[path.suffix]
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}" if path.is_file() else None
