"""Walks the kept steps of a run with the analyses of `circuits/`, and writes a table for each step.

python -m pipeline.circuits RUN --analysis logit_lens,attribution --steps log
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pyarrow as pa

from pipeline.circuits._pairs import CorpusPairs, Renamed
from pipeline.circuits.base import Analysis, Explanation, Overview, Pairs, Source
from pipeline.circuits.failures import forget_failure
from pipeline.circuits.tables import (
    ALL,
    CIRCUITS,
    add_step,
    analysis_code,
    by_step,
    fingerprint,
    is_made_of,
    read_one,
    read_table,
    weights_hash,
    write_table,
)  # fmt: skip
from pipeline.config.recipe import Recipe, read_kept_recipe
from pipeline.config.registry import load
from pipeline.corpora.store import StoredCorpus, build
from pipeline.models.base import Family
from pipeline.runs.folder import RECIPE, TOKENIZER, check_corpus
from pipeline.runs.manifest import Manifest
from pipeline.utils.errors import MismatchError, ParameterError, RecipeError, UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Run:
    """A run folder, to look into: its kept steps as models, its corpus as pairs, and the tables that are there.

    trusted: whether code that comes with its base model may run; what the folder says of that does not count.

    Raises:
        RecipeError: when the folder is not that of a run, or its manifest is damaged.
    """

    path: Path
    trusted: bool

    def __init__(self, path: str | Path, trusted: bool = False):
        object.__setattr__(self, "path", Path(path))
        object.__setattr__(self, "trusted", trusted)
        if not (self.path / RECIPE).is_file():
            raise RecipeError(str(self.path), "is not a run folder")

    @cached_property
    def recipe(self) -> Recipe:
        return read_kept_recipe(self.path / RECIPE, trusted=self.trusted)

    @cached_property
    def stored(self) -> StoredCorpus:
        stored = build(self.recipe.corpus)
        check_corpus(self.path, stored)
        return stored

    @cached_property
    def source(self) -> Source:
        try:
            return source_of(self.recipe, self.stored, self.path / TOKENIZER)
        except ParameterError as error:
            raise self.recipe.located(error) from None

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest.load(self.path)

    @property
    def steps(self) -> list[int]:
        """The steps that were kept, in order."""
        return sorted(self.manifest.kept)

    def model(
        self, step: int | None = None, device: Any = "cpu", into: PreTrainedModel | None = None
    ) -> PreTrainedModel:
        """The model at a kept step (None: the last), in eval mode; `into` gives its place to one that is there.

        It is built from what the run folder holds, in float32, also where a base model was continued.

        Raises:
            ParameterError: when the step was not kept.
            MismatchError: when its weights are not those that were kept.
        """
        from pipeline.models.loading import load_weights

        (step,) = choose_steps(self.manifest, "last" if step is None else str(step))
        entry = self.manifest.kept[step]
        if damage := entry.damage(self.path):
            raise MismatchError(f"{self.path}/{entry.path}: {damage}")
        model = self.recipe.model.kept(self.stored, self.path / entry.path).to(device) if into is None else into
        load_weights(model, self.path / entry.path)
        return model.eval()

    def pairs(self, split: str = "id", most: int = 300, seed: int = 0) -> Pairs:
        """Prompts of a split beside corrupted ones; see `pipeline.circuits.base.Pairs`."""
        return self.source.pairs(split, most, seed)

    def look(self, analysis: Analysis, step: int | None = None, device: Any = "cpu") -> pa.Table:
        """The table of an analysis at a kept step (None: the last), with the pairs that it chooses; for `draw`."""
        step = self.steps[-1] if step is None else step
        pairs = analysis.choose(self.source)
        shared = analysis.fit(self.model(device=device), pairs)
        return add_step(analysis.run(self.model(step, device), pairs, **shared), step)

    def table(self, analysis: str) -> pa.Table:
        """All steps of an analysis that was run, in order of their number."""
        return read_table(self.path, analysis)


def explain(
    run: Path, analyses: Mapping[str, Explanation], device: Any = "cpu", against: Path | None = None,
    source: Source | None = None, trusted: bool = False,
    on_failure: Callable[[str, Exception], None] | None = None,
) -> Iterator[Path]:  # fmt: skip
    """Runs analyses on the kept steps they name; yields each table's path once it is there.

    Pairs are those of `source`, where one is given, and else of the run's corpus. `trusted` is that of `Run`.

    A whole table that was computed from the same weights, pairs, parameters and code stays. One model instance takes
    all steps.
    Overviews compare those of their steps that the analysis they look at has, with the tables of the run `against` too,
    where one is named. One that fails is told to `on_failure`, where that is given, and the next one is run.

    Raises:
        ParameterError: when an analysis names a split or a step that the run does not have.
        MismatchError: when the weights of a step are not those that were kept.
    """
    folder, opened, every = run / CIRCUITS, Run(run, trusted), with_sources(analyses)
    model: PreTrainedModel | None = None
    loaded: int | None = None

    def at(step: int) -> PreTrainedModel:
        nonlocal model, loaded
        if loaded != step:
            model, loaded = opened.model(step, device, model), step
        assert model is not None
        return model

    def tables_of(name: str, analysis: Explanation) -> Iterator[Path]:
        parameters = analysis.as_dict() | {"steps": ""}
        steps = choose_steps(opened.manifest, analysis.steps)
        if isinstance(analysis, Overview):
            looked_at = choose_steps(opened.manifest, every[analysis.source].steps)
            if not (steps := [step for step in steps if step in looked_at]):
                raise ParameterError(f"{name}.steps", f"{analysis.source} looks at none of these steps")
            tables = {step: read_one(folder / analysis.source / f"step{step}.parquet") for step in steps}
            others = None if against is None else by_step(against, analysis.source)
            table = analysis.compare(tables, others)
            write_table(run, f"{CIRCUITS}/{name}/{ALL}.parquet", table, {"parameters": parameters})
            yield folder / name / f"{ALL}.parquet"
            return
        assert isinstance(analysis, Analysis)
        pairs = analysis.choose(source or opened.source)
        shared = analysis.fit(at(opened.steps[-1]), pairs) if type(analysis).fit is not Analysis.fit else {}
        code = analysis_code(type(analysis))
        common = {"parameters": parameters, "pairs": fingerprint(pairs), "shared": shared, "code": code}
        for step in steps:
            path = folder / name / f"step{step}.parquet"
            made_of = {**common, "weights": weights_hash(opened.manifest.kept[step])}
            if not is_made_of(path, made_of):
                table = add_step(analysis.run(at(step), pairs, **shared), step)
                write_table(run, f"{CIRCUITS}/{name}/{path.name}", table, made_of)
            yield path

    for name, analysis in every.items():
        try:
            yield from tables_of(name, analysis)
            forget_failure(run, name)
        except Exception as error:  # a bug of the analysis's too, which must not take the others and the run with it
            if on_failure is None:
                raise
            on_failure(name, error)


def with_sources(analyses: Mapping[str, Explanation]) -> dict[str, Explanation]:
    """The analyses, each overview after the one it looks at, which is run as it is by default where it is not named."""
    found: dict[str, Explanation] = {}
    for name, analysis in sorted(analyses.items(), key=lambda item: isinstance(item[1], Overview)):
        if isinstance(analysis, Overview) and analysis.source not in found:
            kind: Any = load("circuits", analysis.source, "circuits")
            found[analysis.source] = kind(steps=analysis.steps)
        found[name] = analysis
    return found


def choose_steps(manifest: Manifest, words: str) -> list[int]:
    """The kept steps that `all`, `last`, `log` (one for each third of an octave) or a list of numbers stands for."""
    kept = sorted(manifest.kept)
    if not kept:
        raise ParameterError("steps", "no step of this run was kept")
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


def source_of(recipe: Recipe, stored: StoredCorpus, tokenizer: Path | None = None) -> Source:
    """The pairs of a recipe's corpus in the tokens of its model, by the tokenizer of a folder where one is named.

    Raises:
        ParameterError: when a word of the corpus is not one token of the model.
    """
    ids, pairs = recipe.model.token_ids(stored, tokenizer), CorpusPairs(stored)
    return pairs if ids == range(len(stored.tokens)) else Renamed(pairs, ids)


def check_analyses(recipe: Recipe, stored: StoredCorpus) -> dict[str, Pairs]:
    """The pairs that the analyses of a recipe will look at, by name, before anything is trained.

    Raises:
        ParameterError: when one names a split that the corpus lacks, or a step that will not be kept; or when it is
            not for this corpus.
    """
    found = {}
    source = source_of(recipe, stored) if recipe.circuits else None
    for name, analysis in with_sources(recipe.circuits).items():
        key = _key(recipe, name)
        if isinstance(analysis, Analysis) and source:
            if analysis.needs_edges and recipe.model.known_edges() is None:
                known = ", ".join(get_args(Family))
                raise ParameterError(key, f"looks at edges, and this model declares no residual_family; known: {known}")
            try:
                analysis.check_split(stored.sizes)
                found[name] = analysis.choose(source)
            except ParameterError as error:
                raise error.inside(key) from None
        for step in analysis.steps.split(",") if analysis.steps[0].isdigit() else ():
            if not recipe.checkpoints.keeps(int(step)) and int(step) != recipe.training.get("max_steps"):
                raise ParameterError(f"{key}.steps", f"step {step} is not kept by the checkpoints block")
    return found


def check_model(recipe: Recipe, model: PreTrainedModel, chosen: Mapping[str, Pairs]) -> None:
    """Checks that the analyses of a recipe can look at its model, before it is trained.

    Raises:
        ParameterError: when one cannot.
    """
    analyses = with_sources(recipe.circuits)
    for name, pairs in chosen.items():
        analysis = analyses[name]
        assert isinstance(analysis, Analysis)
        try:
            analysis.check(model, pairs)
        except (UnsupportedError, MismatchError) as error:
            raise ParameterError(_key(recipe, name), f"cannot look at this model: {error}") from None


def _key(recipe: Recipe, name: str) -> str:
    """Where a recipe names an analysis, or the overview that looks at its tables."""
    found = (key for key, one in recipe.circuits.items() if isinstance(one, Overview) and one.source == name)
    return f"circuits.{name if name in recipe.circuits else next(found)}"
