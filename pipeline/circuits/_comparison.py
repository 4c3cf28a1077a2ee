"""Analyses of two models: a step beside another one, of the same run or of another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipeline.circuits.base import Analysis
from pipeline.config.fields import param
from pipeline.config.recipe import Recipe
from pipeline.models.loading import load_step, tokenizer_of
from pipeline.runs.folder import RunFolder
from pipeline.runs.layout import TOKENIZER
from pipeline.runs.stages import choose_kept
from pipeline.utils.errors import MismatchError, ParameterError, RecipeError
from pipeline.utils.paths import expanded

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAME = "same"


@dataclass(frozen=True)
class TwoModels(Analysis):
    """An analysis of two models of one shape: a step's, which `run` takes first, and `other`, which it takes by name.

    The runner finds the other one: a step of the same run, or of another.
    """

    other: str = param(
        "last",
        "what a step is compared with: last, fit, grok or a number, of this run; or RUN@ and one of these or same",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        run, sign, step = self.other.rpartition("@")
        if bool(run) != bool(sign) or not re.fullmatch(r"last|fit|grok|\d{1,15}" + (r"|same" if run else ""), step):
            raise ParameterError(
                "other", f"{self.other!r} is not last, fit, grok or a number, nor RUN@ and one of these or same"
            )

    def check_other(self, model: PreTrainedModel, other: PreTrainedModel) -> None:
        """Whether two models have weights of the same names and shapes.

        Raises:
            MismatchError: with the first that differs.
        """
        ours, theirs = ({name: tuple(w.shape) for name, w in one.named_parameters()} for one in (model, other))
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                here, there = ours.get(name, "missing"), theirs.get(name, "missing")
                raise MismatchError(f"the other model has another shape: {name} is {there} there, {here} here")


class Others:
    """The models that the steps of a run are compared with, each loaded when it is asked for."""

    def __init__(self, run: RunFolder, analysis: TwoModels, device: Any):
        self.run, self.analysis, self.device = run, analysis, device
        self.loaded: tuple[int, PreTrainedModel] | None = None

    @cached_property
    def home(self) -> RunFolder:
        """The run that the other models are steps of.

        Raises:
            ParameterError: when it is none, or its model has another vocabulary.
        """
        other = other_run(self.analysis)
        if other is None:
            return self.run
        if other.corpus["content_hash"] != self.run.corpus["content_hash"]:
            ours, theirs = (tokenizer_of(run.path / TOKENIZER).get_vocab() for run in (self.run, other))
            if odd := sorted(word for word in {*ours, *theirs} if ours.get(word) != theirs.get(word)):
                there, here = theirs.get(odd[0], "missing"), ours.get(odd[0], "missing")
                raise ParameterError("other", f"{other.path} has another vocabulary: {odd[0]!r} is {there} there, "
                                              f"{here} here")  # fmt: skip
        return other

    def step(self, step: int) -> int:
        """The step of the other model beside one of this run."""
        name = self.analysis.other.rpartition("@")[2]
        words = str(step) if name == SAME else name
        return choose_kept(self.home.path, self.home.manifest, words, "other")[0]

    def weights_hash(self, step: int) -> str:
        return self.home.manifest.kept[self.step(step)].weights_hash

    def model(self, step: int) -> PreTrainedModel:
        wanted = self.step(step)
        if self.loaded is None or self.loaded[0] != wanted:
            self.loaded = wanted, load_step(self.home, wanted, self.device, self.loaded and self.loaded[1])
        return self.loaded[1]


def other_run(analysis: TwoModels) -> RunFolder | None:
    """The other run that an analysis names, or None.

    Raises:
        ParameterError: when it is not there, or damaged.
    """
    path = analysis.other.rpartition("@")[0]
    if not path:
        return None
    try:
        return RunFolder.read(expanded(path, "other"))
    except RecipeError as error:
        raise ParameterError("other", str(error)) from None


def check_comparison(analysis: TwoModels, recipe: Recipe) -> None:
    """Whether the other model will be there when a recipe has been trained.

    Raises:
        ParameterError: when it will not.
    """
    other, step = other_run(analysis), analysis.other.rpartition("@")[2]
    if other is not None and step != SAME:
        choose_kept(other.path, other.manifest, step, "other")
    ends = recipe.training.get("max_steps")
    if other is None and step.isdigit() and not recipe.checkpoints.keeps(int(step)) and int(step) != ends:
        raise ParameterError("other", f"step {step} is not kept by the checkpoints block")
