"""A run as its folder tells it, finished or not: the one thing that everybody reads of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pipeline.config.coerce import untyped
from pipeline.config.recipe import Recipe, read_kept_recipe
from pipeline.config.renamed import rename_old
from pipeline.config.trust import trusts
from pipeline.config.yaml_nodes import MOST_BYTES, Block, parse
from pipeline.config.yaml_writer import lists
from pipeline.corpora.store import INDEX, StoredCorpus, build
from pipeline.runs.grokking import PROBE, GrokTracker, judged_split, match_key
from pipeline.runs.layout import CORPUS, ENVIRONMENT, RECIPE
from pipeline.runs.manifest import Manifest
from pipeline.runs.metrics import LAST_STEP, Series, read_series
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.inside import MEGABYTE, exists, read_json, read_text

MOST_STARTS = 16 * MEGABYTE  # bytes of environment.json: some 10,000 starts
T = TypeVar("T")


class RunFolder:
    """What was asked for, what it ran on, every number that was logged, and the steps that were kept.

    Each part is read when it is first used, once. A part that is damaged raises RecipeError then; `read` asks for all
    that a report needs at once. The folder may lack an environment, metrics and kept steps.

    Args:
        path: The folder of a run.
        trusted: Whether code that comes with its base model may run; what the folder says of that does not count.

    Raises:
        RecipeError: when it is not the folder of a run.
    """

    def __init__(self, path: str | Path, trusted: bool = False):
        self.path, self.trusted = Path(path), trusted
        if not exists(self.path, RECIPE):
            raise RecipeError(str(self.path), f"is not the folder of a run: it has no {RECIPE}")

    @classmethod
    def read(cls, path: str | Path) -> RunFolder:
        """Read all that a report needs.

        Raises:
            RecipeError: when it is not the folder of a run, or a file in it is damaged.
        """
        run = cls(path)
        for part in ("corpus", "resolved", "total_steps", "manifest", "grok"):
            getattr(run, part)
        return run

    @classmethod
    def of(cls, recipe: Recipe, stored: StoredCorpus) -> RunFolder:
        """The folder of a run that this process trains: its recipe and its corpus are known, and not read again."""
        run = cls(recipe.output_dir, trusts(recipe.model))
        run.recipe, run.stored, run.resolved = recipe, stored, lists(recipe.resolved())
        return run

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe with its types; it may come from a machine that has other packages and files."""
        return read_kept_recipe(self.path / RECIPE, trusted=self.trusted)

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The recipe as plain values, also where this version does not know all of them."""
        return _part(self.path, RECIPE, lambda: read_resolved(self.path))

    @cached_property
    def stored(self) -> StoredCorpus:
        """The corpus, built again where it is not in the cache.

        Raises:
            RecipeError: when what it is read from is not there, or has become another.
        """
        try:
            stored = build(self.recipe.corpus)
        except ParameterError as error:
            raise self.recipe.located(error.inside("corpus")) from None
        check_corpus(self.path, stored)
        return stored

    @cached_property
    def corpus(self) -> dict[str, Any]:
        """What the folder says of the corpus: name, sizes, held_out, content_hash."""
        name = f"{CORPUS}/{INDEX}"
        return _part(self.path, name, lambda: _corpus(read_json(self.path, name)))

    @cached_property
    def total_steps(self) -> int:
        """Updates of the whole run."""
        length = _part(self.path, RECIPE, lambda: _length(self.resolved, self.corpus["sizes"]["train"]))
        # Counted where it was trained, replayed rows and all; earlier code wrote no number.
        counted = [start["total_steps"] for start in self.starts if type(start.get("total_steps")) is int]
        return (counted or [length])[-1]

    @cached_property
    def starts(self) -> list[dict[str, Any]]:
        """One environment for each time the run was started."""
        return read_starts(self.path)

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest.load(self.path)

    @cached_property
    def series(self) -> dict[str, Series]:
        """Every number that was logged, by its key."""
        return read_series(self.path)

    @cached_property
    def grok(self) -> GrokTracker:
        """When it fitted, and when it generalized."""
        return _tracked(self.series, self.corpus["held_out"])

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def fork(self) -> tuple[str, int] | None:
        """The name of the run that this one went on from, and the step; None where it began by itself."""
        parent, _, step = str(self.resolved.get("fork") or "").rpartition("@")
        is_step = step.isascii() and step.isdigit() and len(step) < 16
        return (Path(parent).name, int(step)) if parent and is_step else None

    @property
    def splits(self) -> list[str]:
        return list(self.corpus["sizes"])

    @property
    def held_out(self) -> list[str]:
        return self.corpus["held_out"]

    @property
    def fact_probes(self) -> dict[str, str]:
        """Held-out splits whose facts are trained -> the probe of `train` that says how many of these are known."""
        probes = {split: f"{split}_atomic" for split in self.held_out}
        return {split: probe for split, probe in probes.items() if probe in self.splits and probe not in self.held_out}

    @property
    def steps(self) -> list[int]:
        """The steps that were kept, in order."""
        return sorted(self.manifest.kept)

    @property
    def last_step(self) -> int:
        """The last step at which something was logged; 0 before that."""
        return max((steps[-1] for steps, _ in self.series.values()), default=0)

    @property
    def finished(self) -> bool:
        """Whether all rows were measured at the last step; a run that was made longer is not finished by its past."""
        series = self.series.get(match_key("train", "final"))
        return series is not None and series.steps[-1] == self.last_step

    def latest(self, key: str) -> float | None:
        """Return the last value that was logged of a key; NaN where it was not finite, None where there is none."""
        return self.series[key].values[-1] if key in self.series else None

    def at_end(self, split: str, what: str) -> float | None:
        """`exact_match` or `loss` of a split: on all its rows once the run is finished, until then as last seen."""
        return self.latest(f"{'final' if self.finished else 'eval'}_{split}_{what}")

    def measured_rows(self, split: str, sampled: bool) -> int:
        """Return rows of a split that an evaluation looks at: while training (`sampled`), or at the end."""
        most = self.resolved.get("max_eval_samples") if sampled else None
        size = self.corpus["sizes"][split]
        return min(size, most or size, PROBE if split == "train" else size)

    @property
    def evaluations(self) -> list[int]:
        """The steps at which the splits were measured while training."""
        return list(self.series[match_key("train")].steps) if match_key("train") in self.series else []


def read_resolved(run: Path) -> dict[str, Any]:
    """Return the recipe of a run folder as plain values.

    Raises:
        RecipeError: when it is damaged, or a YAML that no recipe is: with tags, aliases, or too large.
    """
    text = read_text(run, RECIPE, MOST_BYTES)
    try:
        tree = parse(text, str(run / RECIPE))
    except RecipeError:
        tree = None
    if not isinstance(tree, Block):
        raise RecipeError(str(run / RECIPE), "is damaged")
    rename_old(tree)
    found: dict[str, Any] = untyped(tree)
    return found


def read_starts(run: Path) -> list[dict[str, Any]]:
    """Return what each start of a run ran on, one after the other; none where there is no environment.json.

    Raises:
        RecipeError: when the file is damaged.
    """
    starts = read_json(run, ENVIRONMENT, MOST_STARTS) if exists(run, ENVIRONMENT) else []
    if not isinstance(starts, list) or not all(isinstance(start, dict) and _is_typed(start) for start in starts):
        raise RecipeError(str(run / ENVIRONMENT), "is damaged")
    return starts


def check_corpus(run: Path, stored: StoredCorpus) -> None:
    """Refuses a corpus that is not the one a run folder was begun with: files that it is read from may be replaced.

    Raises:
        ParameterError: with both content hashes.
    """
    index = run / CORPUS / INDEX
    if not exists(run, f"{CORPUS}/{INDEX}"):  # a new run
        return
    try:
        begun = str(read_json(run, f"{CORPUS}/{INDEX}")["content_hash"])
    except (OSError, ValueError, TypeError, KeyError):
        raise ParameterError("corpus", f"{index} is damaged; delete {index.parent} to have it written again") from None
    if begun != stored.content_hash:
        raise ParameterError(
            "corpus",
            f"{run} was begun with content hash {begun[:16]}, and what is there now has {stored.content_hash[:16]}; "
            "put the corpus back as it was, or choose another --output_dir",
        )


def _is_typed(start: dict[str, Any]) -> bool:
    """Return whether what reports and checks read of a start is of the kind that is written there."""
    kinds = {
        "device": str,
        "command": list,
        "packages": dict,
        "processes": int,
        "total_steps": int,
        "random_streams": int,
        "texts": dict,
    }
    if not _has(start, kinds):
        return False
    told = start.get("texts", {}).values()
    words = (*start.get("command", ()), *start.get("packages", {}).values())
    return all(isinstance(word, str) for word in words) and all(
        isinstance(text, dict) and all(isinstance(part, str | None) for part in text.values()) for text in told
    )


def _has(start: dict[str, Any], kinds: dict[str, type]) -> bool:
    return all(isinstance(start[key], kind) for key, kind in kinds.items() if key in start)


def _length(recipe: Mapping[str, Any], rows: int) -> int:
    """Return the updates of a whole run, also where its recipe counts epochs of a corpus of so many rows."""
    steps, epoch = recipe.get("max_steps", -1), -(-rows // recipe["global_batch_size"])
    return steps if steps > 0 else math.ceil(recipe["num_train_epochs"] * epoch)


def _corpus(facts: dict[str, Any]) -> dict[str, Any]:
    sizes = {**facts["sizes"]}
    if not all(type(size) is int and 0 < size < LAST_STEP for size in sizes.values()):
        raise ValueError("sizes")
    if not isinstance(facts["name"], str) or not isinstance(facts["content_hash"], str):
        raise ValueError("name")
    if not all(isinstance(split, str) for split in facts["held_out"]):
        raise ValueError("held_out")
    if not all(re.fullmatch(r"\w{1,100}", str(name), re.ASCII) for name in (facts["name"], *sizes, *facts["held_out"])):
        raise ValueError("name")  # every corpus that is built has such names; they become names of files
    return {**facts, "sizes": {"train": sizes["train"], **sizes}, "held_out": [*facts["held_out"]]}


def _part(run: Path, name: str, parse: Callable[[], T]) -> T:
    """Return what a file of a run folder says."""
    try:
        return parse()
    except FileNotFoundError:
        raise RecipeError(str(run / name), "is missing, so this is not the folder of a run") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError):
        raise RecipeError(str(run / name), "is damaged") from None


def _tracked(series: dict[str, Series], held_out: Sequence[str]) -> GrokTracker:
    tracker = GrokTracker(judged_split(held_out))
    keys = [match_key(split) for split in ("train", tracker.held_out) if split]
    matches = {key: dict(zip(*series[key])) for key in keys if key in series}
    for step in sorted({step for values in matches.values() for step in values}):
        tracker.update(step, {key: values.get(step) for key, values in matches.items()})
    return tracker
