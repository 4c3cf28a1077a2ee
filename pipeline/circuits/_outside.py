"""Models that are no run of ours: from a folder or the Hub, at one revision or at all that are named after steps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.circuits._comparison import TwoModels
from pipeline.circuits.base import Analysis, Explanation, Overview, Source
from pipeline.circuits.tables import ALL, add_step, analysis_code, by_step, fingerprint, is_made_of, write_table
from pipeline.config.trust import runs_code
from pipeline.kernels.device_names import device
from pipeline.models.loading import not_finite
from pipeline.runs.checkpoints import choose_among
from pipeline.runs.layout import CIRCUITS, RECIPE, TOKENIZER
from pipeline.utils.errors import MISTAKES, ParameterError, RecipeError, as_mistake, in_one_line
from pipeline.utils.paths import is_path

STEP = re.compile(r"step(0|[1-9]\d{0,17})")  # a revision that is named after a step


def open_model(name: str, revision: str | None, granted: bool, where: str | None) -> Any:
    """A model in float32 and eval mode.

    Args:
        name: A folder, or a name on the Hub.
        revision: Of the Hub; of a folder, one of its `steps/`.
        granted: Whether code that comes with it may run.
        where: The device; None: cuda where there is one.

    Raises:
        RecipeError: when there is no such model, or a weight of it is not finite.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path, extra = _place(name, revision)
    try:
        trusted = runs_code(path, granted, **extra)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, trust_remote_code=trusted, **extra)
    except MISTAKES:
        raise
    except (OSError, ValueError) as error:  # what transformers has against a name or a folder
        raise RecipeError("--model", in_one_line(error, 300)) from None
    if weight := not_finite(model.state_dict()):
        raise RecipeError("--model", f"{path}: its weight {weight} is not finite")
    return model.to(device(where)).eval()


def open_tokenizer(name: str, revision: str | None, trusted: bool) -> Any:
    """The tokenizer of such a model, or None where there is none: transformers would make one up.

    Raises:
        RecipeError: when it cannot be read.
    """
    from transformers import AutoTokenizer
    from transformers.utils import cached_file

    path, extra = _place(name, revision)
    # Weights of a run's step stand without a tokenizer, which lies beside the steps.
    beside = Path(path).parent.parent / TOKENIZER
    folders = [path, str(beside)] if Path(path).is_dir() and beside.is_dir() else [path]
    missing = {**extra, "_raise_exceptions_for_missing_entries": False}
    try:
        for folder in folders:
            if any(cached_file(folder, file, **missing) for file in ("tokenizer_config.json", "tokenizer.json")):
                return AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted, **extra)
        return None
    except (OSError, ValueError) as error:
        raise RecipeError("--model", f"its tokenizer: {in_one_line(error, 300)}") from None


def _place(name: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` is to be asked for: a folder, or a name and its revision."""
    if is_path(name) and not Path(name).is_dir():
        raise RecipeError("--model", f"{name}: there is no such folder")
    kept = Path(name) / "steps" / (revision or "")
    if revision and kept.is_dir():
        return str(kept), {}
    if revision and Path(name).is_dir():
        raise RecipeError("--revision", f"{name} has no steps/{revision}")
    if not revision and (Path(name) / RECIPE).is_file():
        raise RecipeError("--model", f"{name} is a run; name one of its steps, such as --revision step0")
    return name, {"revision": revision} if revision else {}


class Revisions:
    """The revisions of a model that are named after training steps: branches or tags of the Hub, `steps/` of a folder.

    One of them is in memory at a time.
    """

    def __init__(self, name: str, granted: bool, where: str | None):
        self.name, self.granted, self.where = name, granted, where
        self._open: tuple[int, Any] | None = None

    @cached_property
    def commits(self) -> dict[int, str]:
        """What each step's weights are known by, in order: a commit of the Hub, or the hash of a folder's files.

        Raises:
            RecipeError: when there is no such model, or none of its revisions is named after a step.
        """
        folder = Path(self.name)
        found = self._hashes(folder / "steps") if folder.is_dir() else self._refs()
        if not found:
            raise RecipeError("--steps", f"{self.name} has no revision that is named after a step, such as step1000")
        return dict(sorted(found.items()))

    def _hashes(self, steps: Path) -> dict[int, str]:
        from pipeline.utils.files import sha256

        weights = {path: STEP.fullmatch(path.parent.name) for path in steps.glob("step*/*.safetensors")}
        return {int(match[1]): sha256(path) for path, match in sorted(weights.items()) if match}

    def _refs(self) -> dict[int, str]:
        from huggingface_hub import HfApi

        with as_mistake(lambda error: RecipeError("--model", in_one_line(error, 300))):
            refs = HfApi().list_repo_refs(self.name)
        each = [*refs.tags, *refs.branches]  # a branch goes before a tag of its name
        return {int(match[1]): ref.target_commit for ref in each if (match := STEP.fullmatch(ref.name))}

    def at(self, step: int) -> Any:
        """The model of a step; the one that was there before is given up first."""
        if self._open is None or self._open[0] != step:
            self._open = None
            self._open = (step, open_model(self.name, self._revision(step), self.granted, self.where))
        return self._open[1]

    def tokenizer(self) -> Any:
        """That of the last step."""
        return open_tokenizer(self.name, self._revision(max(self.commits)), self.granted)

    def _revision(self, step: int) -> str:
        return f"step{step}" if Path(self.name).is_dir() else self.commits[step]


def walk(models: Revisions, analyses: Mapping[str, Explanation], source: Source, folder: Path) -> Iterator[Path]:
    """Runs analyses on the revisions that they name; yields each table's path below `folder` once it is there.

    What is there from the same weights, pairs, parameters and code stays, and its weights are not loaded. Revisions are
    gone through once, the last one first where an analysis takes from it what all steps share. Overviews, each after
    the analysis that it looks at, compare what that has.

    Raises:
        ParameterError: when a step is named that there is not, or an analysis compares with another run.
        RecipeError: when a model cannot be had.
    """
    commits = models.commits
    each = {name: one for name, one in analyses.items() if isinstance(one, Analysis)}
    for name, analysis in each.items():
        if isinstance(analysis, TwoModels):
            raise ParameterError("--analysis", f"{name} compares two models, and this is one")
    steps = {name: choose_among(list(commits), one.steps) for name, one in analyses.items()}
    pairs = {name: analysis.choose(source) for name, analysis in each.items()}
    shared = {
        name: analysis.fit(models.at(max(commits)), pairs[name]) if type(analysis).fit is not Analysis.fit else {}
        for name, analysis in each.items()
    }
    for step, commit in commits.items():
        for name, analysis in each.items():
            if step not in steps[name]:
                continue
            path = f"{CIRCUITS}/{name}/step{step}.parquet"
            made_of = {
                "model": models.name, "weights": commit, "parameters": analysis.as_dict() | {"steps": ""},
                "pairs": fingerprint(pairs[name]), "shared": shared[name], "code": analysis_code(type(analysis)),
            }  # fmt: skip
            if not is_made_of(folder / path, made_of):
                table = add_step(analysis.run(models.at(step), pairs[name], **shared[name]), step)
                folder.mkdir(parents=True, exist_ok=True)
                write_table(folder, path, table, made_of)
            yield folder / path
    for name, overview in analyses.items():
        if isinstance(overview, Overview):
            there = {step: table for step, table in by_step(folder, overview.source).items() if step in steps[name]}
            made_of = {"model": models.name, "parameters": overview.as_dict() | {"steps": ""}}
            write_table(folder, f"{CIRCUITS}/{name}/{ALL}.parquet", overview.compare(there), made_of)
            yield folder / CIRCUITS / name / f"{ALL}.parquet"
