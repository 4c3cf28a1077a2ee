"""Damages a file of a finished run in every way there is, and looks what every command that reads it makes of that.

    python -m tests.mutations --times 1000

A command ends with a result or with one line, within 5 seconds, whatever stands in the folder; it touches nothing
outside of it, and deletes nothing that a user has put into it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from tests.tiny import RECIPE, run_here, tree, write_recipe

TEXT = RECIPE.replace("max_steps: 24", "max_steps: 8").replace("save_steps: 6", "save_steps: 4")
TEXT += "circuits: {logit_lens: {steps: last, pairs: 8}, fourier: {steps: last, pairs: 8}}\n"
SECONDS = 5.0  # of the processor, for a command
WAITED = 60.0  # by the clock, for one that waits for something; the machine may be busy
THEIRS = ("notes.md", "steps/best/a", "checkpoint-8-backup/a", ".x.draft.md")
VALUES: list[Any] = [None, True, -1, 0, 2**70, 10**400, 1e308, -1e308, float("nan"), float("inf"), "", "x"]
VALUES += ["\x1b[31mred", "../../outside", "/etc/passwd", [], {}, [[]], {"x": {}}, "9" * 5000, [1, "a", None], 0.5]


class TooLongError(BaseException):
    """A command has used up its time; no `except Exception` takes it for one of its own."""


def plant(folder: Path) -> tuple[Path, Path]:
    """A recipe and its finished run, with files of a user in it."""
    recipe = write_recipe(folder, TEXT)
    with contextlib.redirect_stdout(io.StringIO()):
        assert run_here(recipe) == 0
    run = folder / "run"
    for name in THEIRS:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(f"theirs: {name}")
    return recipe, run


def targets(run: Path) -> list[str]:
    """The files of a run, and the folders that may be a link."""
    files = sorted(str(file.relative_to(run)) for file in run.rglob("*") if file.is_file())
    folders = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_dir())
    # Of what there are several of, one; all are read by the same code.
    several = ("figures/", "steps/step1/", "steps/step2/", "steps/step4/", "checkpoint-4/")
    ours = [name for name in files if name not in THEIRS and not name.startswith(several)]
    return ours + [name for name in folders if not any(theirs.startswith(f"{name}/") for theirs in THEIRS[1:])]


def _flip(file: Path, draws: random.Random, outside: Path) -> None:
    content = bytearray(file.read_bytes() or b"x")
    for _ in range(draws.choice([1, 1, 3])):
        content[draws.randrange(min(len(content), draws.choice([64, 1 << 30])))] ^= draws.randrange(1, 256)
    file.write_bytes(content)


def _truncate(file: Path, draws: random.Random, outside: Path) -> None:
    os.truncate(file, draws.choice([0, 1, 7, 8, file.stat().st_size // 2, max(file.stat().st_size - 1, 0)]))


def _huge(file: Path, draws: random.Random, outside: Path) -> None:
    os.truncate(file, 1 << draws.choice([30, 40]))


def _noise(file: Path, draws: random.Random, outside: Path) -> None:
    file.write_bytes(draws.randbytes(draws.choice([1, 100, 10_000])))


def _deep(file: Path, draws: random.Random, outside: Path) -> None:
    file.write_text(draws.choice(["[", '{"a":', "- ", "a: {", "((("]) * 50_000)


def _typed(file: Path, draws: random.Random, outside: Path) -> None:
    """Another value somewhere in a JSON or YAML text; other files are filled with one."""
    text = file.read_text(errors="replace")
    lines = text.splitlines() if file.suffix == ".jsonl" else [text]
    number = draws.randrange(len(lines)) if lines else 0
    try:
        value = yaml.safe_load(lines[number]) if file.suffix == ".yaml" else json.loads(lines[number])
    except (ValueError, IndexError, yaml.YAMLError):
        value, lines = None, [""]
        number = 0
    places = list(_places(value))
    if places:
        holder, key = draws.choice(places)
        action = draws.choice(["replace", "replace", "delete", "add"])
        if action == "delete":
            del holder[key]
        elif action == "add" and isinstance(holder, dict):
            holder[draws.choice(["x", "version", "\x1b[2J", "__class__"])] = draws.choice(VALUES)
        else:
            holder[key] = draws.choice(VALUES)
    else:
        value = draws.choice(VALUES)
    lines[number] = yaml.safe_dump(value) if file.suffix == ".yaml" else json.dumps(value)
    file.write_text("\n".join(lines) + ("\n" if file.suffix == ".jsonl" else ""))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def _missing(file: Path, draws: random.Random, outside: Path) -> None:
    shutil.rmtree(file) if file.is_dir() else file.unlink()


def _replaced(make: Callable[[Path, Path], None]) -> Callable[[Path, random.Random, Path], None]:
    def replace(file: Path, draws: random.Random, outside: Path) -> None:
        _missing(file, draws, outside)
        make(file, outside)

    return replace


MUTATIONS: dict[str, Callable[[Path, random.Random, Path], None]] = {
    "flipped": _flip,
    "cut": _truncate,
    "huge": _huge,
    "noise": _noise,
    "deep": _deep,
    "typed": _typed,
    "missing": _missing,
    "link out": _replaced(lambda file, outside: file.symlink_to(outside / "file")),
    "link to a folder": _replaced(lambda file, outside: file.symlink_to(outside)),
    "link to nothing": _replaced(lambda file, outside: file.symlink_to(outside / "nothing")),
    "link to itself": _replaced(lambda file, outside: file.symlink_to(file)),
    "link to a device": _replaced(lambda file, outside: file.symlink_to("/dev/zero")),
    "folder": _replaced(lambda file, outside: file.mkdir()),
    "file": _replaced(lambda file, outside: file.write_text("a file")),
    "pipe": _replaced(lambda file, outside: os.mkfifo(file)),
}
OF_FILES = ("flipped", "cut", "huge", "noise", "deep", "typed")


def _commands() -> dict[str, Callable[[Path, Path, Path], int]]:
    from pipeline.circuits import __main__ as explaining
    from pipeline.hub import __main__ as hub
    from pipeline.report import __main__ as report
    from pipeline.runs import __main__ as upkeep

    def circuits(recipe: Path, run: Path, other: Path) -> int:
        return explaining.main([str(run), "--analysis", "logit_lens", "--steps", "last", "--pairs", "4"])

    def rebuild(recipe: Path, run: Path, other: Path) -> int:
        (run / "manifest.json").unlink(missing_ok=True) if not (run / "manifest.json").is_dir() else None
        return upkeep.main(["rebuild-manifest", str(run)])

    return {
        "run": lambda recipe, run, other: run_here(recipe, "--output_dir", str(run)),
        "run longer": lambda recipe, run, other: run_here(recipe, "--output_dir", str(run), "--max_steps", "10"),
        "report": lambda recipe, run, other: report.main([str(run)]),
        "compare": lambda recipe, run, other: report.main(
            [str(run), str(other), "--output", str(run.with_name("comparison"))]
        ),
        "circuits": circuits,
        "list": lambda recipe, run, other: upkeep.main(["list", str(run)]),
        "show": lambda recipe, run, other: upkeep.main(["show", str(run), "8"]),
        "verify": lambda recipe, run, other: upkeep.main(["verify", str(run)]),
        "verify --rebuild": lambda recipe, run, other: upkeep.main(["verify", str(run), "--rebuild"]),
        "prune": lambda recipe, run, other: upkeep.main(["prune", str(run), "--keep", "last"]),
        "rebuild-manifest": rebuild,
        "push --dry-run": lambda recipe, run, other: hub.main(["push", str(run), "--repo", "user/name", "--dry-run"]),
    }


COMMANDS = ("run", "run longer", "report", "compare", "circuits", "list", "show", "verify", "verify --rebuild")
COMMANDS += ("prune", "rebuild-manifest", "push --dry-run")


def attempt(recipe: Path, run: Path, name: str, mutation: str, command: str, seed: int) -> str | None:
    """What is wrong with how a command takes a mutation; None where nothing is."""
    if mutation in OF_FILES and not (run / name).is_file():
        mutation = "missing"
    with tempfile.TemporaryDirectory(prefix="groklab-mutation-") as place:
        copy, outside = Path(place) / "run", Path(place) / "outside"
        shutil.copytree(run, copy)
        outside.mkdir()
        (outside / "file").write_text('{"theirs": 1}\n')
        MUTATIONS[mutation](copy / name, random.Random(seed), outside)
        before = tree(outside)
        status, printed, problem = call(lambda: _commands()[command](recipe, copy, run))
        if problem is None and (status not in (0, 1, 2) or "Traceback" in printed):
            problem = f"status {status}: {printed[-300:]}"
        if problem is None and status == 2 and len(printed.strip().splitlines()) != 1:
            problem = f"not one line: {printed[:500]!r}"
        if problem is None and tree(outside) != before:
            problem = "something outside was touched"
        lost = [theirs for theirs in THEIRS if not (copy / theirs).exists()]
        if problem is None and lost:
            problem = f"{lost} of the user are gone"
        return problem and f"{command} with {name} {mutation} (seed {seed}): {problem}"


def call(action: Callable[[], int]) -> tuple[int | None, str, str | None]:
    """Status, what was printed to the standard error, and what has failed."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise TooLongError(signal.Signals(number).name + "".join(traceback.format_stack(frame)[-3:]))

    before = {number: signal.signal(number, too_long) for number in (signal.SIGPROF, signal.SIGALRM)}
    printed = io.StringIO()
    try:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WAITED)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(printed):
            status = action()
        return status, printed.getvalue(), None
    except (Exception, SystemExit, TooLongError):  # whatever leaves a command is what is looked for
        return None, printed.getvalue(), traceback.format_exc()[-1500:]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", choices=COMMANDS)
    chosen = parser.parse_args()
    draws = random.Random(chosen.seed)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="groklab-mutations-") as folder:
        recipe, run = plant(Path(folder))
        names = targets(run)
        for number in range(chosen.times):
            command = chosen.command or draws.choice(COMMANDS)
            name, mutation = draws.choice(names), draws.choice(sorted(MUTATIONS))
            if problem := attempt(recipe, run, name, mutation, command, chosen.seed + number):
                last = problem.strip().splitlines()[-1]
                found[last[:100]] += 1
                if found[last[:100]] == 1:
                    print(f"{problem}\n", flush=True)
    print(f"{chosen.times} attempts, {sum(found.values())} that are not taken well: {dict(found)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
