"""A grid of runs of one recipe, several at a time, and all their curves in one report.

    python -m pipeline.sweep RECIPE --corpus.ratio 3.6,9,18 --seed 0,1,2 [--key value ...]

Values with commas span the grid; other keys are overrides of every run, as of `python -m pipeline.run`. Each run is a
process with a folder of its own inside that of the sweep. The same command goes on with what is unfinished.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import folder
from pipeline.comparison import write_comparison
from pipeline.failures import reminders
from pipeline.files import append, writing
from pipeline.grokking import THRESHOLD
from pipeline.launcher import SWEEP
from pipeline.outside import check_outside
from pipeline.parameters import ParameterError
from pipeline.paths import expanded, folder_name
from pipeline.reading import RecipeError, pairs
from pipeline.recipe import Recipe, read_recipe
from pipeline.results import Results
from pipeline.seeds import moved_by_seeds
from pipeline.signals import SAVED, Stopped, stop_signals
from pipeline.slurm import submit
from pipeline.terminal import in_a_line, run_command, say
from pipeline.trust import without_option
from pipeline.wording import duration

LOG = "log.txt"  # beside a run's folder, with its name before it
# What the environment says of one run, and would make one of them all.
OF_ONE_RUN = ("GROKLAB_STATUS", "WANDB_RUN_ID", "WANDB_NAME")


@dataclass
class Point:
    """One run of a grid: where it differs, its recipe, and its process while it runs."""

    name: str
    recipe: Recipe
    words: list[str]
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    started: float = 0.0

    @property
    def folder(self) -> Path:
        return self.recipe.output_dir

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.{LOG}")

    @property
    def is_finished(self) -> bool:
        return folder.is_finished(self.recipe, folder.open_run(self.recipe))

    def outcome(self) -> str:
        """What came of it, in a few words."""
        run = Results.read(self.folder)
        split = run.grok.held_out or "train"
        reached = run.grok.gen_step if run.grok.held_out else run.grok.fit_step
        if reached is None:
            match = run.at_end(split, "exact_match")
            return f"{split} {match:.3f} at step {run.last_step:,}" if match is not None else "no result"
        return f"{split} >= {THRESHOLD} at step {reached:,}"


def values_of(text: str) -> list[str]:
    """The values between the commas that stand outside of brackets and quotes: `a,[b,c]` is `a` and `[b,c]`."""
    values, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        depth += (sign in "[{") - (sign in "]}") if not quote else 0
        if sign == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += sign
    return [value.strip() for value in values]


def grid(path: str, words: Sequence[str], output: Path | None) -> list[Point]:
    """The runs of a sweep, the last key changing fastest; every recipe has been read and checked.

    Raises:
        RecipeError: at a mistake in any of them, or when no key has several values.
    """
    axes: dict[str, list[str]] = {}
    for key, value in pairs(without_option(list(words))):
        if key is None or value is None:
            raise RecipeError("command line", f"{value or f'--{key}'}: write --key value or --key value,value")
        axes[key] = values_of(value)
    swept = [key for key, values in axes.items() if len(values) > 1]
    if not swept:
        raise RecipeError("command line", "no key has several values; write them with commas, such as --seed 0,1,2")
    for key in swept:
        if len(set(axes[key])) < len(axes[key]) or "" in axes[key]:
            raise RecipeError("command line", f"--{key} {','.join(axes[key])}: has a value twice, or an empty one")
    output = output or Path("runs") / f"{Path(path).stem}-sweep"
    points = []
    for chosen in itertools.product(*axes.values()):
        at = dict(zip(axes, chosen))
        name = folder_name({key.rpartition(".")[2]: at[key] for key in swept})
        overrides = [f"--{key}={value}" for key, value in at.items()]
        overrides += [f"--output_dir={output / name}", f"--run_name={Path(path).stem} {name}"]
        recipe = read_recipe(path, overrides)
        try:
            check_outside(recipe)
        except ParameterError as error:
            raise recipe.located(error) from None
        points.append(Point(name, recipe, overrides))
    return points


def run_all(points: Sequence[Point], path: str, jobs: int) -> int:
    """Runs what is unfinished, `jobs` at a time, with a line for each that ends.

    Returns:
        The exit status: 0 all are finished, 1 one has failed, 75 one was stopped and has saved.
    """
    waiting = [point for point in points if not point.is_finished]
    done, statuses = len(points) - len(waiting), set[int]()
    if done:
        print(f"{done} of {len(points)} runs are finished already")
    running: list[Point] = []
    slots = list(range(jobs))
    places: dict[str, int] = {}
    try:
        while waiting or running:
            while waiting and slots:
                point = waiting.pop(0)
                places[point.name] = slots.pop(0)
                _start(point, path, places[point.name], jobs)
                running.append(point)
            time.sleep(0.1)
            for point in [point for point in running if point.process and point.process.poll() is not None]:
                running.remove(point)
                slots.append(places[point.name])
                done += 1
                assert point.process is not None
                statuses.add(point.process.returncode)
                say(*f"[{done}/{len(points)}] {point.name}: {_ending(point)}".splitlines())
    finally:
        _end([point.process for point in running if point.process])
    return 1 if statuses - {0, SAVED} else SAVED if SAVED in statuses else 0


def _ending(point: Point) -> str:
    """How the run of a point ended, in a line, and where its log is where it failed."""
    assert point.process is not None
    took = duration(time.monotonic() - point.started)
    if point.process.returncode == SAVED:
        return f"stopped and saved after {took}; the same command goes on with it"
    if point.process.returncode == 1 and point.is_finished and (lines := reminders(point.recipe.output_dir)):
        return "\n  ".join([f"{point.outcome()}, {took}", *lines])
    if point.process.returncode:
        return f"FAILED after {took}: {_last_line(point.log)}\n  its log is {point.log}"
    return f"{point.outcome()}, {took}"


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Lets runs end their step and save; a second signal to the sweep ends them at once."""
    for process in processes:
        process.terminate()
    try:
        for process in processes:
            process.wait()
    except BaseException:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        raise


def _start(point: Point, path: str, slot: int, jobs: int) -> None:
    """Starts a run on its share of the machine: one of the GPUs, or some of the cores."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_ONE_RUN}
    environment[SWEEP] = str(os.getpid())
    gpus = gpu_names()
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))
    point.folder.parent.mkdir(parents=True, exist_ok=True)
    # Unbuffered, so that the last line of the log is the last one it wrote, whichever stream it went to.
    command = [sys.executable, "-u", "-m", "pipeline.run", path, *point.words, "--callbacks.progress.style=plain"]
    paths = [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    with open(point.log, "ab", buffering=0) as log:
        append(log, f"$ {shlex.join(command)}\n".encode(errors="surrogateescape"))  # which a full disk refuses
        point.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    point.started = time.monotonic()


def _last_line(path: Path) -> str:
    lines = [
        line
        for line in path.read_text(errors="replace", encoding="utf-8").splitlines()
        if line.strip() and line[:2] != "$ "
    ]
    return lines[-1] if lines else "it said nothing"


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_names() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; found without torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def report(points: Sequence[Point]) -> Path | None:
    """All curves in one report, in the sweep's folder; None while fewer than two runs have begun."""
    begun = [point.folder for point in points if (point.folder / folder.CORPUS).is_dir()]
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
def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status: 0 done, 1 a run failed, 2 a mistake in a recipe, 75 stopped and saved."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.sweep",
        usage="python -m pipeline.sweep RECIPE --key value,value,... [--key value ...] [--jobs N] [--slurm OPTIONS]",
        description=(__doc__ or "").partition("\n")[0],
        epilog="A list or a quoted text is one value: --checkpoints.every [[100,null]] --optim_args \"'a=1,b=2'\".",
        allow_abbrev=False,
    )
    parser.add_argument("recipe", help="what --key value overrides, as in python -m pipeline.run")
    parser.add_argument("--output_dir", type=Path, help="folder of the sweep (default: runs/RECIPE-sweep)")
    parser.add_argument("--jobs", type=int, help="runs at a time (default: one for each GPU, or half of the cores)")
    parser.add_argument("--slurm", metavar="OPTIONS", help='as a Slurm array with these: "--gpus=1 --time=8:00:00"')
    parser.add_argument("--report", action="store_true", help="only report what there is")
    chosen, words = parser.parse_known_args(_joined(argv))
    jobs = chosen.jobs if chosen.jobs is not None else len(gpu_names()) or max(1, cores() // 2)
    try:
        if jobs < 1:
            raise RecipeError("command line", f"--jobs {jobs}: is not a number of runs at a time, 1 or more")
        if chosen.output_dir is not None:
            chosen.output_dir = expanded(chosen.output_dir, "--output_dir")
        points = grid(chosen.recipe, words, chosen.output_dir)
        if line := moved_by_seeds([point.recipe for point in points]):
            print(line, flush=True)
        if chosen.slurm is not None and not chosen.report:
            again = [sys.executable, "-m", "pipeline.sweep", *argv, "--report"]
            if number := submit(points, chosen.recipe, jobs, chosen.slurm, again):
                print(f"submitted as job {number}; the report comes after it: {points[0].folder.parent}/report.html")
                return 0
        with stop_signals(), writing(points[0].folder.parent):
            status = 0 if chosen.report else run_all(points, chosen.recipe, jobs)
        if page := report(points):
            print(page)
        return status
    except (RecipeError, ParameterError) as error:
        print(error, file=sys.stderr)
        return 2
    except Stopped as stop:
        print(f"\nstopped by {stop.name}; the same command goes on with what is unfinished", file=sys.stderr)
        return stop.status


if __name__ == "__main__":
    run_command(main)
