"""The report of a run, or of several on one axis.

python -m pipeline.report RUN             draws report.md and report.html of a run again
python -m pipeline.report RUN RUN [...]   compares runs, in a folder of its own
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.report.comparison import write_comparison
from pipeline.report.run_report import draw_report
from pipeline.runs.folder import RunFolder
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.paths import expand_arguments
from pipeline.utils.terminal import run_command, say


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.report", description="Reports of finished or running runs."
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="one to redraw, several to compare")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of a comparison (default: comparison)")
    chosen = parser.parse_args(arguments)
    failed = list[str]()
    try:
        expand_arguments(chosen, "runs", "output")
        if len(chosen.runs) > 1:
            folder = chosen.output or Path("comparison")
            write_comparison(chosen.runs, folder)
        elif chosen.output:
            raise RecipeError("--output", "is for a comparison; the report of one run lies in its folder")
        else:
            folder = chosen.runs[0]
            failed = draw_report(RunFolder.read(folder))
    except (RecipeError, ParameterError, OSError) as error:  # the last where a page cannot be written
        say(error, file=sys.stderr)
        return 2
    say(folder / "report.html")
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
