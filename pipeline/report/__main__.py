"""The report of a run, or of several on one axis.

python -m pipeline.report RUN             draws report.md and report.html of a run again
python -m pipeline.report RUN RUN [...]   compares runs, in a folder of its own
python -m pipeline.report RUN --style paper --width column --x linear --splits train,id
                                          draws the curve alone, for a paper
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.plots.formats import FORMATS, METAVAR, OPTION, read_formats
from pipeline.report.comparison import write_comparison
from pipeline.report.paper import write_figures
from pipeline.report.run_report import draw_report
from pipeline.report.view import View
from pipeline.runs.folder import RunFolder
from pipeline.runs.layout import RECIPE
from pipeline.utils.arguments import Parser
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.paths import expand_arguments
from pipeline.utils.terminal import run_command, say


def main(arguments: list[str] | None = None) -> int:
    parser = Parser(prog="python -m pipeline.report", description="Reports of finished or running runs.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="one to redraw, several to compare")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of a comparison (default: comparison)")
    parser.add_argument(
        OPTION, metavar=METAVAR, help=f"of figures: {', '.join(FORMATS)} (png,svg; for a paper pdf,png)"
    )
    parser.add_argument("--splits", metavar="NAME[,NAME]", help="whose exact match is drawn (all)")
    parser.add_argument("--x", choices=("log", "linear"), default="log", help="axis of training steps (log)")
    parser.add_argument(
        "--style", choices=("report", "paper"), default="report", help="paper: the curves alone, for a paper (report)"
    )
    parser.add_argument(
        "--width", choices=("column", "page"), help="of a figure for a paper, 3.3 or 6.9 inches (column)"
    )
    chosen = parser.parse_args(arguments)
    failed = list[str]()
    try:
        expand_arguments(chosen, "runs", "output")
        usual = "pdf,png" if chosen.style == "paper" else "png,svg"
        formats = read_formats(usual if chosen.format is None else chosen.format)
        splits = () if chosen.splits is None else tuple(dict.fromkeys(chosen.splits.split(",")))
        view = View(splits, chosen.x == "linear")
        if chosen.width and chosen.style != "paper":
            raise RecipeError("--width", "is for figures of a paper; write --style paper too")
        if len(chosen.runs) > 1:
            folder = chosen.output or Path("comparison")
            runs = those_that_are_runs(chosen.runs)
            if chosen.style == "report":
                write_comparison(runs, folder, formats, view)
        elif chosen.output:
            raise RecipeError("--output", "is for a comparison; the report of one run lies in its folder")
        else:
            folder, runs = chosen.runs[0], chosen.runs
            if chosen.style == "report":
                failed = draw_report(RunFolder.read(folder), formats, view)
        if chosen.style == "paper":
            say(*write_figures(runs, folder, view, chosen.width or "column", formats))
            return 0
    except (RecipeError, ParameterError, OSError) as error:  # the last where a page cannot be written
        say(error, file=sys.stderr)
        return 2
    say(folder / "report.html")
    return 1 if failed else 0


def those_that_are_runs(paths: list[Path]) -> list[Path]:
    """The runs among several paths, such as all of runs/*; a line says of the others that they are left out.

    Raises:
        RecipeError: when no two are left.
    """
    found = [path for path in paths if (path / RECIPE).is_file() or not path.exists()]
    others = [path for path in paths if path not in found]
    if others and len(found) < 2:
        raise RecipeError(str(others[0]), f"is not the folder of a run: it has no {RECIPE}")
    for path in others:
        say(f"{path}: is left out, as it is no run: it has no {RECIPE}", file=sys.stderr)
    return found


if __name__ == "__main__":
    run_command(main)
