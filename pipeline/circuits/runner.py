"""Walks the kept steps of a run with the analyses of `circuits/`, and writes a table for each step.

python -m pipeline.circuits RUN --analysis logit_lens,attribution --steps log
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pipeline.circuits._comparison import Others, TwoModels, check_comparison
from pipeline.circuits._pairs import corpus_source, source_of
from pipeline.circuits.base import Analysis, Explanation, Overview, Pairs, Source
from pipeline.circuits.failures import forget_failure
from pipeline.circuits.tables import (
    ALL,
    add_step,
    analysis_code,
    by_step,
    fingerprint,
    is_made_of,
    read_one,
    write_table,
)
from pipeline.config.recipe import Recipe
from pipeline.config.registry import load
from pipeline.corpora.store import StoredCorpus
from pipeline.models.base import Stream
from pipeline.models.loading import load_step
from pipeline.runs.checkpoints import choose_steps
from pipeline.runs.folder import RunFolder
from pipeline.runs.layout import CIRCUITS
from pipeline.utils.errors import MismatchError, ParameterError, UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def explain(
    run: RunFolder, analyses: Mapping[str, Explanation], device: Any = "cpu", against: Path | None = None,
    source: Source | None = None, on_failure: Callable[[str, Exception], None] | None = None,
) -> Iterator[Path]:  # fmt: skip
    """Runs analyses on the kept steps they name; yields each table's path once it is there.

    Pairs are those of `source`, where one is given, and else of the run's corpus.

    A whole table that was computed from the same weights, pairs, parameters and code stays. One model instance takes
    all steps.
    Overviews compare those of their steps that the analysis they look at has, with the tables of the run `against` too,
    where one is named. One that fails is told to `on_failure`, where that is given, and the next one is run.

    Raises:
        ParameterError: when an analysis names a split or a step that the run does not have.
        MismatchError: when the weights of a step are not those that were kept.
    """
    folder, every = run.path / CIRCUITS, with_sources(analyses)
    sources = {analysis.source for analysis in every.values() if isinstance(analysis, Overview)}
    # Before anything is computed, so that a run without them is a mistake at once.
    others = {source: by_step(against, source) for source in sources} if against else {}
    model: PreTrainedModel | None = None
    loaded: int | None = None

    def at(step: int) -> PreTrainedModel:
        nonlocal model, loaded
        if loaded != step:
            model, loaded = load_step(run, step, device, model), step
        assert model is not None
        return model

    def tables_of(name: str, analysis: Explanation) -> Iterator[Path]:
        parameters = analysis.as_dict() | {"steps": ""}
        steps = choose_steps(run.manifest, analysis.steps)
        if isinstance(analysis, Overview):
            looked_at = choose_steps(run.manifest, every[analysis.source].steps)
            if not (steps := [step for step in steps if step in looked_at]):
                raise ParameterError(f"{name}.steps", f"{analysis.source} looks at none of these steps")
            tables = {step: read_one(folder / analysis.source / f"step{step}.parquet") for step in steps}
            table = analysis.compare(tables, others.get(analysis.source))
            write_table(run.path, f"{CIRCUITS}/{name}/{ALL}.parquet", table, {"parameters": parameters})
            yield folder / name / f"{ALL}.parquet"
            return
        assert isinstance(analysis, Analysis)
        pairs = analysis.choose(source or source_of(run))
        shared = analysis.fit(at(run.steps[-1]), pairs) if type(analysis).fit is not Analysis.fit else {}
        code = analysis_code(type(analysis))
        common = {"parameters": parameters, "pairs": fingerprint(pairs), "shared": shared, "code": code}
        beside = Others(run, analysis, device) if isinstance(analysis, TwoModels) else None
        for step in steps:
            path = folder / name / f"step{step}.parquet"
            made_of = {**common, "weights": run.manifest.kept[step].weights_hash}
            if beside:
                made_of["other weights"] = beside.weights_hash(step)
            if not is_made_of(path, made_of):
                more = {"other": beside.model(step)} if beside else {}
                table = add_step(analysis.run(at(step), pairs, **shared, **more), step)
                write_table(run.path, f"{CIRCUITS}/{name}/{path.name}", table, made_of)
            yield path

    for name, analysis in every.items():
        try:
            yield from tables_of(name, analysis)
            forget_failure(run.path, name)
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


def check_analyses(recipe: Recipe, stored: StoredCorpus) -> dict[str, Pairs]:
    """The pairs that the analyses of a recipe will look at, by name, before anything is trained.

    Raises:
        ParameterError: when one names a split that the corpus lacks, or a step that will not be kept; or when it is
            not for this corpus.
    """
    found = {}
    source = corpus_source(recipe, stored) if recipe.circuits else None
    for name, analysis in with_sources(recipe.circuits).items():
        key = _recipe_key(recipe, name)
        if isinstance(analysis, Analysis) and source:
            if analysis.needs_edges and recipe.model.known_edges() is None:
                known = ", ".join(get_args(Stream))
                raise ParameterError(key, f"looks at edges, and this model declares no residual_family; known: {known}")
            try:
                analysis.check_split(stored.sizes)
                found[name] = analysis.choose(source)
                if isinstance(analysis, TwoModels):
                    check_comparison(analysis, recipe)
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
            raise ParameterError(_recipe_key(recipe, name), f"cannot look at this model: {error}") from None


def _recipe_key(recipe: Recipe, name: str) -> str:
    """Where a recipe names an analysis, or the overview that looks at its tables."""
    found = (key for key, one in recipe.circuits.items() if isinstance(one, Overview) and one.source == name)
    return f"circuits.{name if name in recipe.circuits else next(found)}"
