"""The runs of a sweep: every combination of the values that its keys are given."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config.outside import read_here
from pipeline.config.recipe import Recipe
from pipeline.config.trust import without_option
from pipeline.config.yaml_nodes import STAGE, pairs
from pipeline.runs import stages
from pipeline.runs.folder import RunFolder
from pipeline.runs.grokking import THRESHOLD
from pipeline.utils.errors import RecipeError
from pipeline.utils.paths import folder_name

LOG = "log.txt"  # beside a run's folder, with its name before it


@dataclass
class Point:
    """One run of a grid: where it differs, its recipe, and its process while it runs."""

    name: str
    recipe: Recipe
    waits: bool = False  # where another process has its folder, as for a stage that several runs need
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    started: float = 0.0

    @property
    def folder(self) -> Path:
        return self.recipe.output_dir

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.{LOG}")

    @property
    def command(self) -> list[str]:
        """Its recipe and overrides, as words for `python -m pipeline.run`."""
        return [self.recipe.source, *self.recipe.words]

    @property
    def is_finished(self) -> bool:
        return stages.is_finished(self.recipe)

    def outcome(self) -> str:
        """What came of it, in a few words."""
        run = RunFolder.read(self.folder)
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
        name = folder_name({_unique_end(key, swept): at[key] for key in swept})
        overrides = [f"--{key}={value}" for key, value in {**at, **_stage_folders(at, swept, output)}.items()]
        overrides += [f"--output_dir={output / name}", f"--run_name={Path(path).stem} {name}"]
        points.append(Point(name, read_here(path, overrides)))
    return points


def _unique_end(key: str, keys: Sequence[str]) -> str:
    """The last parts of a dotted key, as many as tell it from the others."""
    parts = key.split(".")
    for count in range(1, len(parts)):
        end = parts[-count:]
        if not any(other.split(".")[-count:] == end for other in keys if other != key):
            return ".".join(end)
    return key


def _stage_folders(at: Mapping[str, str], swept: Sequence[str], output: Path) -> dict[str, str]:
    """A folder for each earlier stage with keys of this sweep, which runs of the same keys share."""
    found, prefix, distance = dict[str, str](), STAGE, 1
    while any(key.startswith(prefix) for key in at):
        if f"{prefix}output_dir" not in at:
            own = [key for key in swept if key.startswith(prefix)]
            values = {"stage": f"-{distance}", **{_unique_end(key, own): at[key] for key in own}}
            found[f"{prefix}output_dir"] = str(output / folder_name(values))
        prefix, distance = prefix + STAGE, distance + 1
    return found


def moved_by_seeds(recipes: Sequence[Recipe]) -> str | None:
    """Say in a line what the seeds in which the runs of a sweep differ move and what stays; None where none differs."""
    seeds = {
        "seed": [recipe.training["seed"] for recipe in recipes],
        "data_seed": [recipe.training.get("data_seed") for recipe in recipes],
        "corpus.seed": [getattr(recipe.corpus, "seed", None) for recipe in recipes],
    }
    swept = [key for key, values in seeds.items() if len(set(values)) > 1]
    if not swept:
        return None
    moved = {
        "initial weights and dropout": "seed" in swept,
        "order of rows": "data_seed" in swept or ("seed" in swept and None in seeds["data_seed"]),
        "corpus": "corpus.seed" in swept,
    }
    moves, stays = (", ".join(name for name in moved if moved[name] is wanted) for wanted in (True, False))
    hint = " (--corpus.seed moves it)" if not moved["corpus"] and None not in seeds["corpus.seed"] else ""
    return f"{', '.join(f'--{key}' for key in swept)}: moves {moves}" + (f"; stays: {stays}{hint}" if stays else "")
