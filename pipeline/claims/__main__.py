"""Results of papers as code: what they need is run, and their numbers stand beside ours.

python -m pipeline.claims                                    lists the claims, and what is recorded of them
python -m pipeline.claims NAME [--budget smoke|cpu|paper]    runs what is missing and judges it; resumable
python -m pipeline.claims NAME --record                      and records it in recipes/results/
python -m pipeline.claims NAME --check                       says what its runs would take here, and runs nothing
python -m pipeline.claims --gallery                          one page of all that is recorded
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.claims.base import BUDGETS, Claim
from pipeline.claims.pages import drawing_of, gallery, sheet_of, write_claim
from pipeline.claims.record import description, missed, ours, reaching, recorded, table, with_table
from pipeline.claims.runner import check_missing, default_folder, measured, points_of, run_missing
from pipeline.config.registry import load, names
from pipeline.plots.formats import FORMATS, METAVAR, OPTION, pictures, read_formats
from pipeline.runs.lock import RunLock
from pipeline.sweep.jobs import USUAL, at_a_time, resumable
from pipeline.utils.arguments import Parser
from pipeline.utils.errors import RecipeError
from pipeline.utils.files import write_bytes, write_json, write_text, writing
from pipeline.utils.paths import expand_arguments
from pipeline.utils.shipped import RECIPES
from pipeline.utils.signals import stop_signals
from pipeline.utils.terminal import in_a_line, run_command, say

RESULTS = RECIPES / "results"
MISSED = RECIPES.parent / "docs" / "what-did-not-work.md"
REACHING = RECIPES.parent / "docs" / "what-reaches-ood.md"


@in_a_line
@resumable
def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status: 0 done, 1 a run failed, 2 a mistake, 75 stopped and saved."""
    chosen = _parser().parse_args(argv)
    expand_arguments(chosen, "output_dir")
    chosen.format = () if chosen.format is None else read_formats(chosen.format)
    return _all(chosen) if chosen.name is None else _one(chosen)


def _parser() -> Parser:
    found = Parser(
        prog="python -m pipeline.claims",
        description=(__doc__ or "").partition("\n")[0],
    )
    found.add_argument("name", nargs="?", metavar="NAME", help="one of them; without it they are listed")
    found.add_argument("--budget", choices=BUDGETS, default="cpu", help="how much of the paper's scale is run (cpu)")
    found.add_argument("--seeds", help="of every arm, such as 0,1,2")
    found.add_argument("--jobs", type=int, help=f"runs at a time ({USUAL})")
    found.add_argument("--output_dir", type=Path, help="folder of the runs (runs/claims/NAME-BUDGET)")
    found.add_argument("--check", action="store_true", help="say what the runs would take here, and run nothing")
    found.add_argument("--record", action="store_true", help="keep what was found in recipes/results/")
    found.add_argument(
        OPTION, metavar=METAVAR, help=f"of figures: {', '.join(FORMATS)} (png,svg; of what is recorded, and shows, png)"
    )
    found.add_argument("--gallery", action="store_true", help="write claims.html, one page of all that is recorded")
    found.add_argument("--table", action="store_true", help="write the tables in recipes/README.md and docs/ anew")
    return found


def _all(chosen: argparse.Namespace) -> int:
    """Lists what there is, or writes what is generated from what is recorded."""
    results = recorded(RESULTS)
    for flag in ("record", "check"):
        if getattr(chosen, flag):
            raise RecipeError(f"--{flag}", f"goes with the name of a claim; there are {', '.join(names('claims'))}")
    if chosen.table:
        generated = {RECIPES / "README.md": table(results), MISSED: missed(results), REACHING: reaching(results)}
        for document, written in generated.items():
            if document.is_file():  # an installed package has no docs/
                write_text(document, with_table(document.read_text(encoding="utf-8"), written))
                say(document)
    if chosen.gallery:
        folder = chosen.output_dir or Path()
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "claims.html", gallery(results, RESULTS, _of_a_page(chosen.format)))
        say(folder / "claims.html")
    for name in () if chosen.table or chosen.gallery else names("claims"):
        kind: Any = load("claims", name, "claims")
        say(f"{name}: {kind.paper.authors}, {kind.paper.where}")
        say(f"  budgets: smoke (seconds); {'; '.join(f'{budget} ({cost})' for budget, cost in kind.costs.items())}")
        for judged in results[name]["targets"] if name in results else ():
            say(f"  {judged['name']}: {ours(judged)}, the paper {judged['paper']}: {judged['verdict']}")
        if name not in results:
            say("  not recorded; its times are estimates")
    return 0


def _of_a_page(formats: Sequence[str]) -> str:
    """The format of the pictures on a page of claims; png where none is named."""
    if set(formats) - {"png", "svg"} or len(formats) > 1:
        raise RecipeError(OPTION, "a gallery shows either png or svg")
    return formats[0] if formats else "png"


def _one(chosen: argparse.Namespace) -> int:
    """Runs what is missing of a claim, and says and writes what was found."""
    claim = _claim(chosen)
    if chosen.record and claim.budget == "smoke":
        raise RecipeError("--record", "a smoke run shows nothing; record cpu or paper")
    folder = chosen.output_dir or default_folder(claim)
    points = points_of(claim, folder)
    jobs = at_a_time(chosen.jobs, [point.recipe for runs in points.values() for point in runs])
    if chosen.check:
        lines, fits = check_missing(claim, points, jobs)
        say(*lines)
        return 0 if fits else 1
    folder.mkdir(parents=True, exist_ok=True)
    with stop_signals(), writing(folder), RunLock(folder):
        status = run_missing(claim, points, jobs)
        found = measured(claim, points)
        facts, drawing = description(claim, found), drawing_of(claim, found)
        write_json(folder / "claim.json", facts)
        write_claim(folder, facts, drawing, sheet_of(found), chosen.format or ("png", "svg"))
    for judged in facts["targets"]:
        say(f"{judged['name']}: {ours(judged)} (holds where {judged['holds']}; the paper: {judged['paper']})")
        say(f"  {judged['verdict']}")
    say(folder / "report.html")
    if chosen.record and status == 0 and drawing is not None:
        RESULTS.mkdir(exist_ok=True)
        for ending, content in pictures(drawing.figure, {"png", *chosen.format}).items():
            write_bytes(RESULTS / f"{chosen.name}.{ending}", content)
        write_json(RESULTS / f"{chosen.name}.json", facts)
        say(RESULTS / f"{chosen.name}.json")
    return status


def _claim(chosen: argparse.Namespace) -> Claim:
    """The claim that the command line names."""
    kind: Any = load("claims", chosen.name, "command line")
    given = {} if chosen.seeds is None else {"seeds": _seeds(chosen.seeds)}
    found: Claim = kind(budget=chosen.budget, **given)
    return found


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise RecipeError("--seeds", f"{text!r} is not a list of numbers, such as 0,1,2") from None


if __name__ == "__main__":
    run_command(main)
