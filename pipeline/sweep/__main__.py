"""A grid of runs of one recipe, several at a time, and all their curves in one report.

    python -m pipeline.sweep RECIPE --corpus.ratio 3.6,9,18 --seed 0,1,2 [--key value ...]

Values with commas span the grid; other keys are overrides of every run, as of `python -m pipeline.run`. Each run is a
process with a folder of its own inside that of the sweep. The same command goes on with what is unfinished.
With --check it says what they would take on this machine, and runs nothing.

With --stack N, up to N unfinished runs that differ only in seeds, rates, decays, schedules and lengths are trained by
one process as one step, which is for small models on a GPU; each run is otherwise what it is alone.

Earlier stages that runs go on from are trained first, each once. Keys behind model.recipe., as --model.recipe.seed 0,1,
are theirs; runs of the same stage keys share a stage.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.report.comparison import write_comparison
from pipeline.runs.layout import CORPUS
from pipeline.sweep.checking import check
from pipeline.sweep.grid import Point, grid, moved_by_seeds
from pipeline.sweep.jobs import USUAL, at_a_time, resumable, run_all
from pipeline.sweep.slurm import submit
from pipeline.sweep.stacks import layout, run_stacked, stacks_of
from pipeline.utils.arguments import Parser
from pipeline.utils.errors import RecipeError
from pipeline.utils.files import writing
from pipeline.utils.paths import expanded
from pipeline.utils.signals import stop_signals
from pipeline.utils.terminal import in_a_line, run_command, say


def report(points: Sequence[Point]) -> Path | None:
    """All curves in one report, in the sweep's folder; None while fewer than two runs have begun."""
    begun = [point.folder for point in points if (point.folder / CORPUS).is_dir()]
    if len(begun) < 2:
        return None
    output = points[0].folder.parent
    write_comparison(begun, output)
    return output / "report.html"


def _joined(words: Sequence[str]) -> list[str]:
    """`--slurm OPTIONS` as one word, since argparse takes options that begin with a dash for its own."""
    if "--slurm" not in words[:-1]:
        return list(words)
    at = words.index("--slurm")
    return [*words[:at], f"--slurm={words[at + 1]}", *words[at + 2 :]]


@in_a_line
@resumable
def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status: 0 done, 1 a run failed, 2 a mistake in a recipe, 75 stopped and saved."""
    argv = sys.argv[1:] if argv is None else argv
    parser = Parser(
        prog="python -m pipeline.sweep",
        usage="python -m pipeline.sweep RECIPE --key value,value,... [--key value ...] [--jobs N] [--stack N] "
        "[--slurm OPTIONS] [--check]",
        description=(__doc__ or "").partition("\n")[0],
        epilog="A list or a quoted text is one value: --checkpoints.every [[100,null]] --optim_args \"'a=1,b=2'\".",
        is_open=True,
    )
    parser.add_argument("recipe", help="what --key value overrides, as in python -m pipeline.run")
    parser.add_argument("--output_dir", type=Path, help="folder of the sweep (default: runs/RECIPE-sweep)")
    parser.add_argument("--jobs", type=int, help=f"runs, or stacks of them, at a time (default: {USUAL})")
    parser.add_argument(
        "--stack", type=int, metavar="N", help="train up to N runs of one model as one step; for a GPU and small models"
    )
    parser.add_argument("--slurm", metavar="OPTIONS", help='as a Slurm array with these: "--gpus=1 --time=8:00:00"')
    parser.add_argument("--check", action="store_true", help="say what the runs would take here, and run nothing")
    parser.add_argument("--report", action="store_true", help="only report what there is")
    chosen, words = parser.parse_known_args(_joined(argv))
    if chosen.output_dir is not None:
        chosen.output_dir = expanded(chosen.output_dir, "--output_dir")
    if chosen.stack is not None and chosen.slurm is not None:
        raise RecipeError("command line", "--stack trains on this machine; as a job: sbatch --wrap with this command")
    points = grid(chosen.recipe, words, chosen.output_dir)
    jobs = at_a_time(chosen.jobs, [point.recipe for point in points])
    if line := moved_by_seeds([point.recipe for point in points]):
        print(line, flush=True)
    stacks = stacks_of(points, chosen.stack) if chosen.stack is not None else []
    if chosen.stack is not None and not chosen.report:
        print(layout(stacks), flush=True)
    if chosen.check:
        lines, fits = check(points, jobs)
        say(*lines)
        return 0 if fits else 1
    if chosen.slurm is not None and not chosen.report:
        again = [sys.executable, "-m", "pipeline.sweep", *argv, "--report"]
        if number := submit(points, jobs, chosen.slurm, again):
            print(f"submitted as job {number}; the report comes after it: {points[0].folder.parent}/report.html")
            return 0
    with stop_signals(), writing(points[0].folder.parent):
        if chosen.report:
            status = 0
        else:
            status = run_stacked(points, jobs, stacks) if stacks else run_all(points, jobs)
    if page := report(points):
        print(page)
    return status


if __name__ == "__main__":
    run_command(main)
