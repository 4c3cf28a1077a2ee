"""Walks the kept steps of a run with the analyses of `circuits/`, and writes a table for each step.

python -m pipeline.circuits RUN --analysis logit_lens --steps log
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.circuits.base import Analysis, Pairs
from pipeline.corpora.base import Draws
from pipeline.folder import RECIPE
from pipeline.manifest import Manifest
from pipeline.neighbours import Neighbours
from pipeline.parameters import ParameterError
from pipeline.reading import RecipeError
from pipeline.recipe import Recipe, read_recipe
from pipeline.rooms import load, names
from pipeline.store import StoredCorpus, build

CIRCUITS = "circuits"


def explain(run: Path, analyses: Mapping[str, Analysis], device: Any = "cpu") -> Iterable[Path]:
    """Runs analyses on the kept steps they name; yields each table's path as it is there, skipping none that was.

    Raises:
        ParameterError: when an analysis names a split or a step that the run does not have.
        ValueError: when the weights of a step are not those that were kept.
    """
    from pipeline.weights import load_weights

    recipe = read_recipe(run / RECIPE)
    stored = build(recipe.corpus)
    manifest = Manifest.load(run)
    model = recipe.model.for_corpus(stored).to(device).eval()
    for name, analysis in analyses.items():
        pairs = make_pairs(stored, analysis).renamed(recipe.model.token_ids(stored))
        for step in choose_steps(manifest, analysis.steps):
            path = run / CIRCUITS / name / f"step{step}.parquet"
            if not path.exists():
                damage = manifest.kept[step].damage(run)
                if damage:
                    raise ValueError(f"{run}/{manifest.kept[step].path}: {damage}")
                load_weights(model, run / manifest.kept[step].path)
                write_table(path, [{"step": step, **row} for row in analysis.run(model, pairs)])
            yield path


def choose_steps(manifest: Manifest, words: str) -> list[int]:
    """The kept steps that `all`, `last`, `log` (one for each third of an octave) or a list of numbers stands for."""
    kept = sorted(manifest.kept)
    if words == "all":
        return kept
    if words == "last":
        return kept[-1:]
    if words == "log":
        octaves = {round(3 * np.log2(max(step, 0.5))): step for step in reversed(kept)}
        return sorted({*octaves.values(), *kept[-1:]})
    wanted = [int(word) for word in words.split(",")]
    missing = [step for step in wanted if step not in manifest.kept]
    if missing:
        raise ParameterError("steps", f"step {missing[0]} was not kept; kept are {', '.join(map(str, kept))}")
    return wanted


def check_analyses(recipe: Recipe, stored: StoredCorpus) -> None:
    """Whether the analyses of a recipe will find what they name, before anything is trained.

    Raises:
        ParameterError: when one names a split that the corpus lacks, or a step that will not be kept.
    """
    if recipe.circuits:
        recipe.model.token_ids(stored)
    for name, analysis in recipe.circuits.items():
        key = f"circuits.{name}"
        if analysis.split not in stored.sizes:
            raise ParameterError(f"{key}.split", f"no split {analysis.split!r}; allowed: {', '.join(stored.sizes)}")
        for step in analysis.steps.split(",") if analysis.steps[0].isdigit() else ():
            if not recipe.checkpoints.keeps(int(step)) and int(step) != recipe.training.get("max_steps"):
                raise ParameterError(f"{key}.steps", f"step {step} is not kept by the checkpoints block")


def make_pairs(stored: StoredCorpus, analysis: Analysis) -> Pairs:
    """Prompts of a split beside corrupted ones; of the split's longest block, since pairs have one length."""
    if analysis.split not in stored.sizes:
        raise ParameterError("split", f"there is no split {analysis.split!r}; allowed: {', '.join(stored.sizes)}")
    examples = max(stored.blocks(analysis.split), key=len)
    neighbours = Neighbours(stored)
    examples = examples.take(Draws(analysis.seed, "pairs").permutation(len(examples)))
    examples = examples.take(np.flatnonzero(neighbours.count(examples))[: analysis.pairs])
    if not len(examples):
        raise ParameterError("split", f"no prompt of {analysis.split} has a neighbour with another answer")
    corrupted = neighbours.corrupt(examples, np.random.Generator(np.random.PCG64(analysis.seed)))
    notes = {name: note for name, note in examples.notes.items() if (note >= 0).all()}
    return Pairs(examples.prompts, corrupted.prompts, examples.answers, corrupted.answers, notes)


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    pq.write_table(pa.Table.from_pylist(rows), draft)
    draft.replace(path)


def read_table(run: Path, analysis: str) -> pa.Table:
    """All steps of an analysis, in order."""
    files = sorted((run / CIRCUITS / analysis).glob("step*.parquet"), key=lambda path: int(path.stem[4:]))
    return pa.concat_tables([pq.read_table(file) for file in files])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.circuits", description="Analyses of the kept steps of a run, resumable."
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    known = ", ".join(names("circuits"))
    parser.add_argument("--analysis", required=True, metavar="NAME[,NAME]", help=f"of {known}")
    parser.add_argument("--steps", default="all", help="all, last, log, or numbers such as 0,1000 (%(default)s)")
    parser.add_argument("--device", default="cpu", help="%(default)s")
    chosen = parser.parse_args(arguments)
    try:
        if not (chosen.run / RECIPE).is_file():
            raise RecipeError(str(chosen.run), "is not a run folder")
        analyses: dict[str, Any] = {name: load("circuits", name, "analysis")() for name in chosen.analysis.split(",")}
        analyses = {name: replace(analysis, steps=chosen.steps) for name, analysis in analyses.items()}
        for path in explain(chosen.run, analyses, chosen.device):
            print(path)
    except (RecipeError, ParameterError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0
