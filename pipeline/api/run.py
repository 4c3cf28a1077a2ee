"""A run in a notebook, from a folder or from the Hub: its curves, models, rows, pairs and tables.

Examples:
    >>> run = Run("runs/quickstart")  # doctest: +SKIP
    >>> curves = run.metrics().query("metric == 'exact_match'")  # doctest: +SKIP
    >>> curves.pivot(index="step", columns="split", values="value").plot()  # doctest: +SKIP
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.registry import load
from pipeline.corpora.export import text_table
from pipeline.runs.folder import RunFolder
from pipeline.runs.layout import CIRCUITS, RECIPE, TOKENIZER
from pipeline.utils.errors import RecipeError
from pipeline.utils.suggest import did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipeline.circuits.base import Analysis, Pairs
    from pipeline.config.recipe import Recipe
    from pipeline.runs.grokking import GrokTracker

AT = re.compile(r"(.+)@(?:(?:step)?(0|[1-9][0-9]{0,14})|(grok|fit|last))")
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


class Run:
    """A finished or unfinished run, to look into.

    Args:
        name: A run folder such as `runs/quickstart`, or a repository of the Hub that a run was pushed to, such as
            `user/name`; `@900` or `@step900` behind either names the step that `model()` gives, `@grok` and `@fit` the
            one at which it generalized or fitted. What is of the Hub is kept in the cache; weights of a step are
            downloaded when they are asked for.
        trust_remote_code: Run the code that comes with the model it was continued from.

    Raises:
        RecipeError: When there is neither such a folder nor such a repository, or the step was not kept.
        HubError: When the Hub cannot be reached, or a repository is no run.

    Examples:
        >>> run = Run("runs/quickstart")  # doctest: +SKIP
        >>> run.grok.gen_step, run.steps[-1]  # doctest: +SKIP
        (350, 2000)
        >>> early = Run("user/quickstart@128").model()  # doctest: +SKIP
    """

    def __init__(self, name: str | Path, *, trust_remote_code: bool = False):
        text = str(name)
        path, at = Path(name).expanduser(), AT.fullmatch(text)
        self.step: int | None = None
        self.repo: str | None = None  # of the Hub, where it is from there
        if at and not path.exists():
            text, self.step = at[1], int(at[2]) if at[2] else None
            path = Path(text).expanduser()
        steps: list[int] | None = None
        if not path.exists():
            steps = self._fetch(text, path)
            path = self._cached
        self.folder = RunFolder(path, trust_remote_code)  # all that it says, as the reports read it
        self.steps: list[int] = self.folder.steps if steps is None else steps
        if at and at[3] and text != str(name):
            self.step = self._reached(at[3])
        if self.step is not None and self.step not in self.steps:
            kept = ", ".join(map(str, self.steps)) or "none"
            raise RecipeError(str(name), f"step {self.step} was not kept; kept are {kept}")

    def __repr__(self) -> str:
        at = "" if self.step is None else f"@{self.step}"
        return f"Run({(self.repo or str(self.path)) + at!r}: {len(self.steps)} kept steps)"

    @property
    def path(self) -> Path:
        """Its folder; of a run of the Hub, the one in the cache."""
        return self.folder.path

    @property
    def recipe(self) -> Recipe:
        """The recipe with all defaults: `run.recipe.training["weight_decay"]`, `run.recipe.corpus`."""
        return self.folder.recipe

    @property
    def grok(self) -> GrokTracker:
        """When it fitted and when it generalized: `fit_step`, `gen_step`, `is_delayed`."""
        return self.folder.grok

    def metrics(self) -> pd.DataFrame:
        """Every number that was logged, a row each: step, split, metric, value.

        `exact_match`, `loss` and what else evaluations measured have a split; `final_exact_match` and the like are
        those of all rows at the end. Numbers of the training itself, such as `learning_rate`, have no split (None).
        What was not finite is NaN. Ordered by step.

        Examples:
            >>> run.metrics().query("metric == 'exact_match' and split == 'id'").set_index("step").value.plot()
            ... # doctest: +SKIP
        """
        import numpy as np
        import pandas as pd

        series = self.folder.series
        named = [_split_and_metric(key, self.folder.splits) for key in series]
        lengths = [len(each.steps) for each in series.values()]
        columns = {
            "step": np.concatenate([np.empty(0, np.int64), *(np.array(each.steps) for each in series.values())]),
            "split": np.repeat(np.array([split for split, _ in named], dtype=object), lengths),
            "metric": np.repeat(np.array([metric for _, metric in named], dtype=object), lengths),
            "value": np.concatenate([np.empty(0), *(np.array(each.values) for each in series.values())]),
        }
        return pd.DataFrame(columns).sort_values("step", kind="stable", ignore_index=True)

    def model(
        self, step: int | None = None, device: Any = "cpu", into: PreTrainedModel | None = None
    ) -> PreTrainedModel:
        """The model at a kept step, in float32 and eval mode; by default at the step that was named, or the last.

        Its weights are compared with the hashes that they were kept with. `into` is a model of this run that takes
        them, in place of a new one.

        Raises:
            ParameterError: When the step was not kept.
            MismatchError: When the weights are not those that were kept.
        """
        from pipeline.models.loading import load_step

        step = self._here(step)  # which may fetch it
        return load_step(self.folder, step, device, into)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the model."""
        from pipeline.models.loading import tokenizer_of

        return tokenizer_of(self.path / TOKENIZER)

    def rows(self, split: str = "id") -> pd.DataFrame:
        """The rows of a split as text: prompt, answer, type, and what the corpus notes of each, such as the bridge.

        Raises:
            RecipeError: When there is no such split, or what the corpus is read from is not there.
        """
        import pyarrow as pa

        stored = self.folder.stored
        if split not in stored.sizes:
            raise RecipeError(str(self.path), f"has no split {split!r}{did_you_mean(split, stored.sizes)}")
        tables = [text_table(stored, block) for block in stored.blocks(split)]
        return pa.concat_tables(tables, promote_options="default").to_pandas()

    def pairs(self, split: str = "id", most: int = 300, seed: int = 0) -> Pairs:
        """Prompts of a split beside corrupted ones that have another answer, in tokens of the model."""
        from pipeline.circuits._pairs import source_of

        return source_of(self.folder).pairs(split, most, seed)

    def table(self, analysis: str) -> pd.DataFrame:
        """What an analysis found at all steps that it was run on; its columns depend on the analysis.

        Raises:
            RecipeError: When there is no such analysis, it was not run, or a table is damaged.
        """
        from pipeline.circuits.failures import again
        from pipeline.circuits.tables import read_table

        load("circuits", analysis, "table")
        if not (self.path / CIRCUITS / analysis).is_dir():
            raise RecipeError(str(self.path), f"{analysis} was not run on it; {again(self.path, analysis)}")
        return read_table(self.path, analysis).to_pandas()

    def look(self, analysis: Analysis, step: int | None = None, device: Any = "cpu") -> pa.Table:
        """Run an analysis at one step, on the pairs that it chooses; returns what its `draw` takes. Writes nothing.

        Examples:
            >>> lens = LogitLens(pairs=50)  # doctest: +SKIP
            >>> lens.draw(run.look(lens, 900))[""].figure  # doctest: +SKIP
        """
        from pipeline.circuits._pairs import source_of
        from pipeline.circuits.tables import add_step

        step = self._here(step)
        pairs = analysis.choose(source_of(self.folder))
        shared = analysis.fit(self.model(self.steps[-1], device), pairs)
        return add_step(analysis.run(self.model(step, device), pairs, **shared), step)

    def _reached(self, word: str) -> int:
        """The first kept step from which it generalized (`grok`) or fitted (`fit`), or the `last`."""
        reached = {"grok": self.grok.gen_step, "fit": self.grok.fit_step, "last": max(self.steps, default=None)}[word]
        found = None if reached is None else min((step for step in self.steps if step >= reached), default=None)
        if found is None:
            what = {"grok": "has not generalized", "fit": "has not fitted its training rows", "last": "kept no step"}
            raise RecipeError(str(self.path), f"is a run that {what[word]}, or that kept no step since")
        return found

    def _here(self, step: int | None) -> int:
        """The step that is meant, once its weights are here."""
        if not self.steps:
            raise RecipeError(str(self.path), "no step of this run was kept")
        step = next(each for each in (step, self.step, self.steps[-1]) if each is not None)
        if self.repo and step not in self.folder.steps:
            from pipeline.api.hub import fetch

            fetch(self.repo, step)
            self.folder = RunFolder(self.path, self.folder.trusted)
        return step

    def _fetch(self, text: str, path: Path) -> list[int]:
        """The steps of a repository, whose run is in the cache then."""
        from pipeline.api.hub import cached, fetch
        from pipeline.hub.repository import HubError

        close = nearest_run(path)
        if close or not HUB_NAME.fullmatch(text):
            hint = f"; did you mean {close}?" if close else ", and user/name of a repository neither"
            raise RecipeError(text, f"there is no such folder{hint}")
        self.repo, self._cached = text, cached(text)
        try:
            return fetch(text, self.step)
        except HubError as error:
            raise HubError(f"{text} is neither a folder here nor a run on the Hub: {error}") from None


def nearest_run(path: Path) -> Path | None:
    """The run beside a path that is not there whose name is most like its own; None where none is."""
    beside = [each.parent.name for each in path.parent.glob(f"*/{RECIPE}")]
    close = difflib.get_close_matches(path.name, beside, n=1)
    return path.parent / close[0] if close else None


def _split_and_metric(key: str, splits: list[str]) -> tuple[str | None, str]:
    """A logged key as its split, None where it has none, and the name of what was measured."""
    when, _, rest = key.partition("_")
    if when in ("eval", "final"):
        for split in sorted(splits, key=len, reverse=True):
            if rest.startswith(f"{split}_"):
                metric = rest[len(split) + 1 :]
                return split, metric if when == "eval" else f"final_{metric}"
    return None, key
