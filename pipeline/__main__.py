"""The `groklab` command: `groklab run RECIPE` is `python -m pipeline.run RECIPE`, and so on for every command."""

from __future__ import annotations

import difflib
import runpy
import sys
from pathlib import Path

from pipeline import __version__
from pipeline.utils.shipped import SHIPPED

COMMANDS = {
    "run": "train what a recipe says, or go on with it",
    "sweep": "a grid of runs of one recipe, in one report",
    "report": "redraw the report of a run, or compare several",
    "ask": "what a run answers to a prompt, and how that changed over training",
    "evaluate": "exact match and loss of any model on any corpus",
    "circuits": "analyse the kept steps of a run, or any one model",
    "corpora": "look at a corpus, or export it",
    "runs": "list, verify and prune the steps that a run keeps",
    "hub": "push, verify and pull runs on the Hugging Face Hub",
    "claims": "results of papers beside ours: run what is missing, judge, record",
    "recipes": "list the recipes that come with the package; copy NAME... [--to DIR] takes some of them",
}
FORMER = "checkpoints"  # which says what it is called now


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit status, and 2 for one that there is not."""
    argv = sys.argv[1:] if argv is None else argv
    name, words = (argv[0], argv[1:]) if argv else ("--help", [])
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: groklab COMMAND ...        (or: python -m pipeline COMMAND ...)\n")
        print("\n".join(f"  {command:<{width}}  {about}" for command, about in COMMANDS.items()))
        print("\ngroklab COMMAND --help tells more of one; groklab --version is what is installed.")
        return 0 if argv else 2
    if name in ("-V", "--version"):
        print(f"groklab {__version__}")
        return 0
    if name not in {*COMMANDS, FORMER}:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        print(f"groklab: there is no command {name}; {hint}allowed: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    if name == "recipes":
        return recipes(words)
    sys.argv = [f"python -m pipeline.{name}", *words]
    try:
        runpy.run_module(f"pipeline.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def recipes(words: list[str]) -> int:
    """List the recipes and accelerate configs of the package, or copy some; returns 0, or 2 for a mistake."""
    folder = SHIPPED / "recipes"
    known = {path.stem: path for path in sorted(folder.glob("*.yaml"))} | {"launch.slurm": folder / "launch.slurm"}
    known |= {
        f"accelerate_configs/{path.stem}": path for path in sorted((SHIPPED / "accelerate_configs").glob("*.yaml"))
    }
    if not words:
        for name, path in known.items():
            first = path.read_text("utf-8").splitlines()[1 if name == "launch.slurm" else 0]
            print(f"{name:<28}  {first.removeprefix('#').strip() if first.startswith('#') else ''}".rstrip())
        return 0
    to = Path()
    if "--to" in words[:-1]:
        place = words.index("--to")
        to, words = Path(words[place + 1]), [*words[:place], *words[place + 2 :]]
    if words[0] != "copy" or len(words) < 2:
        print("groklab recipes: write groklab recipes, or groklab recipes copy NAME... [--to DIR]", file=sys.stderr)
        return 2
    chosen = [word.removesuffix(".yaml").removeprefix("recipes/") for word in words[1:]]
    for name in chosen:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            print(f"groklab recipes: there is no recipe {name}; {hint}groklab recipes lists them", file=sys.stderr)
            return 2
    for path in (known[name] for name in chosen):
        target = to / path.name
        try:
            to.mkdir(parents=True, exist_ok=True)
            with target.open("x", encoding="utf-8") as file:
                file.write(path.read_text("utf-8"))
        except FileExistsError:
            print(f"groklab recipes: {target} is there already; nothing is overwritten", file=sys.stderr)
            return 2
        except OSError as error:
            print(f"groklab recipes: {target}: {error.strerror}", file=sys.stderr)
            return 2
        print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
