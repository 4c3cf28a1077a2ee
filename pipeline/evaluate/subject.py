"""What is evaluated: the kept steps of a run, or one model of a folder or of the Hub, and how it reads a corpus."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.api.hub import is_run
from pipeline.api.run import HUB_NAME, Run, nearest_run
from pipeline.corpora.base import PAD
from pipeline.corpora.store import StoredCorpus
from pipeline.runs.checkpoints import choose_among
from pipeline.runs.layout import RECIPE
from pipeline.utils.errors import ParameterError, RecipeError
from pipeline.utils.paths import is_path
from pipeline.utils.suggest import did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipeline.data.rows import Rows
    from pipeline.objectives.base import Objective

PLAIN = {"default": "{prompt} {answer}"}
BATCH = 512  # rows at a time of a model whose recipe does not say


class Subject(abc.ABC):
    """A model, at one or several steps, with its tokenizer.

    `templates` turn rows of a corpus into its text; None: each word of a corpus is one token where it is one, and
    `PLAIN` is the text otherwise.
    """

    name: str
    templates: Mapping[str, str] | None = None
    batch: int = BATCH
    objective: Objective
    fast: bool = True

    @property
    @abc.abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerBase: ...

    @abc.abstractmethod
    def steps(self, words: str | None) -> list[int | None]:
        """The steps that are meant: `all`, `log`, `last`, numbers; None where nothing was said.

        Raises:
            ParameterError: when one was not kept.
        """

    @abc.abstractmethod
    def model(self, step: int | None, device: Any) -> PreTrainedModel:
        """The model at a step, always the same instance, in float32 and eval mode."""

    @abc.abstractmethod
    def family(self, model: PreTrainedModel) -> str | None:
        """The family whose short forward the model may take."""

    def rows(self, stored: StoredCorpus, split: str, most: int | None = None) -> Rows:
        """A split in the tokens of the model; `most` draws that many rows, those that a run is measured by.

        Raises:
            ParameterError, RecipeError: when the model cannot read the corpus.
        """
        from pipeline.data.rows import load_rows
        from pipeline.data.templates import render

        ids = None if self.templates else self.token_ids(stored)
        if ids is not None:
            rows = load_rows(stored, split, most)
            return rows if ids == list(range(len(ids))) else rows.renamed(ids)
        try:
            return render(stored, split, self.tokenizer, self.templates or PLAIN, most)
        except ParameterError as error:
            raise RecipeError("--template", error.message) from None

    def token_ids(self, stored: StoredCorpus) -> list[int] | None:
        """The token of the model for each word of a corpus; None where its tokenizer cuts the text otherwise."""
        from pipeline.data.words import check_text

        key = stored.content_hash
        if key not in self._known:
            known, used = self.tokenizer.get_vocab(), stored.tokens[: stored.tokens.index(PAD)]
            lacking = [word for word in used if word not in known]
            if lacking and self.tokenizer.unk_token == PAD:  # a closed vocabulary, which has no other words
                word = lacking[0]
                raise RecipeError(self.name, f"does not know {word}, a word of this corpus{did_you_mean(word, known)}")
            ids = None if lacking else [known.get(word, known.get(PAD, 0)) for word in stored.tokens]
            if ids is not None:
                try:
                    check_text(stored, self.tokenizer, ids, "corpus")
                except ParameterError:
                    ids = None
            self._known[key] = ids
        return self._known[key]

    @cached_property
    def _known(self) -> dict[str, list[int] | None]:
        return {}  # by the content hash of a corpus


class RunSubject(Subject):
    """The kept steps of a run, measured as its training measured them."""

    def __init__(self, run: Run):
        self.run, self.name = run, str(run.path) if run.repo is None else run.repo
        recipe = run.recipe
        self.objective, self.fast = recipe.objective, recipe.options.fast
        self.batch = recipe.training["per_device_eval_batch_size"]
        self._model: PreTrainedModel | None = None
        if recipe.model.rewords:
            self.templates = recipe.model.templates

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.run.tokenizer

    def steps(self, words: str | None) -> list[int | None]:
        if words is None and self.run.step is not None:
            return [self.run.step]
        return [*choose_among(self.run.steps, words or "last")]

    def model(self, step: int | None, device: Any) -> PreTrainedModel:
        self._model = self.run.model(step, device, self._model)
        return self._model

    def family(self, model: PreTrainedModel) -> str | None:
        from pipeline.models.families import forward_of

        return forward_of(model)


class ModelSubject(Subject):
    """One model that transformers reads, by its own tokenizer."""

    def __init__(self, name: str, revision: str | None, trusted: bool):
        from pipeline.models.pretrained import Pretrained
        from pipeline.objectives.next_token import NextToken

        self.name = name if revision is None else f"{name}@{revision}"
        self.source = Pretrained(name, revision=revision, trust_remote_code=trusted)
        self.objective = NextToken()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.source.own_tokenizer()

    def steps(self, words: str | None) -> list[int | None]:
        if words is not None:
            raise RecipeError("--steps", f"is for a run; {self.name} is one model")
        return [None]

    def model(self, step: int | None, device: Any) -> PreTrainedModel:
        return self.source.build(0).to(device).eval()

    def family(self, model: PreTrainedModel) -> str | None:
        return self.source.short_forward(model)


def open_subject(text: str, revision: str | None = None, trusted: bool = False) -> Subject:
    """What `MODEL[@STEP]` names: a run folder, a kept step, a folder of `save_pretrained`, or a name on the Hub.

    Raises:
        RecipeError, ParameterError: when there is no such thing.
        HubError: when a run of the Hub cannot be fetched.
    """
    path = Path(text).expanduser()
    if path.is_dir() and path.parent.name == "steps" and (path.parent.parent / RECIPE).is_file() and revision is None:
        return RunSubject(Run(f"{path.parent.parent}@{path.name}", trust_remote_code=trusted))
    bare, at, step = (text, "", "") if path.exists() or "@" not in text else text.rpartition("@")
    place = Path(bare).expanduser()
    if place.exists():
        if not any((place / name).is_file() for name in (RECIPE, "config.json")):
            raise RecipeError(bare, f"is no folder of a run, with {RECIPE}, nor of a model, with config.json")
        if (place / RECIPE).is_file():
            if revision is not None:
                raise RecipeError("--revision", f"is for a model of the Hub; write {bare}@STEP for a step of a run")
            return RunSubject(Run(text, trust_remote_code=trusted))
        if at:
            raise RecipeError(text, f"{place} is the folder of one model, which has no steps")
    elif nearest_run(place) or (revision is None and HUB_NAME.fullmatch(bare) and is_run(bare)):
        return RunSubject(Run(text, trust_remote_code=trusted))
    elif is_path(bare):
        raise RecipeError(bare, "there is no such folder")
    return ModelSubject(bare, revision or step or None, trusted)
