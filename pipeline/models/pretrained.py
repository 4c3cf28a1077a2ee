"""Existing weights, trained further: a model of the Hub, a local folder, or a kept step of a run."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.config.fields import param
from pipeline.data.words import add_words, as_saved, without_template
from pipeline.models._readable import KEY, NO_VOCABULARY, check_saved, readable, usable_generation_config
from pipeline.models.base import Architecture
from pipeline.models.families import edges_of, forward_of, longest
from pipeline.runs.manifest import Manifest
from pipeline.runs.stages import choose_kept
from pipeline.utils.errors import ParameterError
from pipeline.utils.paths import expanded, is_path
from pipeline.utils.suggest import did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pipeline.corpora.store import StoredCorpus
    from pipeline.data.rows import Rows


@dataclass(frozen=True)
class Pretrained(Architecture):
    """Continued pretraining: the weights and the tokenizer of `model_name_or_path`, on a corpus in its words.

    With `vocabulary: text` the rows are natural text: a template for each type of example, in which {prompt} and
    {answer} stand for the corpus's own words and {p0}, {p1}, ... for the tokens of the prompt one by one. With
    `vocabulary: tokens` each word of the corpus becomes one token of the model wherever it stands in a text; one that
    its tokenizer has keeps its embedding, and others are added.
    """

    model_name_or_path: str = param("", "name on the Hub, local folder of a model, or folder of a run")
    revision: str | None = param(
        None, "of the Hub; of a run, stepN, grok or fit: when it generalized or fitted; null: main, the last step"
    )
    recipe: str | None = param(None, "an earlier stage, trained first: file beside this one, in place of a name")
    step: str = param("grok", "of the run of `recipe`: grok, when it generalized, fit, last, or a number")
    weights: str | None = param(None, "sha256 of the weights of a run's step, which runs write: others are refused")
    vocabulary: Literal["text", "tokens"] = param("text", "the base's words for the corpus, or one token for each word")
    templates: dict[str, str] = field(
        default_factory=lambda: {"default": "{prompt} {answer}"},
        metadata={
            "help": "type of example, * for any part -> text that ends with {answer}; default is for all others, "
            "and {prompt} {answer} where none is written"
        },
    )
    new_embeddings: Literal["mean", "normal"] = param(
        "mean", "added tokens begin near the mean of all others, or at random with the base's initializer_range"
    )
    freeze: tuple[str, ...] = field(
        default=(), metadata={"help": "names of weights that stay as they are, * for any part: ['transformer.wte*']"}
    )
    dtype: Literal["float32", "bfloat16"] = param("float32", "of the weights; bf16 is for mixed precision")
    trust_remote_code: bool = param(
        False, "run the code that comes with the weights; a file cannot say so, --trust-remote-code does"
    )

    @classmethod
    def tiny(cls, folder: Path = Path()) -> Pretrained:
        """Return one whose base is a small GPT-2 with a tokenizer that knows no word of a corpus."""
        from pipeline.data.tokenizer import build_tokenizer
        from pipeline.models.gpt2 import Gpt2

        base = str(folder)
        build_tokenizer(["a", "b", "<pad>"], " ").save_pretrained(base)
        Gpt2(**{**Gpt2.tiny_values, "n_positions": 64}).build(3).save_pretrained(base)
        return cls(base, vocabulary="tokens")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model_name_or_path and not self.recipe:
            raise ParameterError("model_name_or_path", "is missing; write a name on the Hub or a folder")
        if self.recipe and not self.weights and (self.model_name_or_path or self.revision):
            raise ParameterError("recipe", "has the place of model_name_or_path and revision; leave these out")
        if self.step not in ("grok", "fit", "last") and not self.step.isdecimal():
            raise ParameterError("step", f"{self.step!r} is not grok, fit, last or a number")
        if "default" not in self.templates:
            raise ParameterError("templates", "has no default; write {default: '{prompt} {answer}'}")
        for kind, template in self.templates.items():
            if not template.endswith("{answer}") or template.count("{answer}") > 1 or template == "{answer}":
                raise ParameterError(f"templates.{kind}", f"{template!r} is not a prompt that ends with one {{answer}}")

    # Where it lies

    @cached_property
    def origin(self) -> tuple[str, str | None]:
        """Name or folder for from_pretrained, and its revision; of a run, the folder of the step.

        Raises:
            ParameterError: when a run has no such step.
        """
        if not self.model_name_or_path:
            raise ParameterError("model.recipe", f"{self.recipe} is trained by python -m pipeline.run alone")
        path = expanded(self.model_name_or_path, KEY)
        if not (path / "recipe.yaml").is_file():
            if self.weights:
                raise ParameterError("model.weights", f"is for a step of a run, which {path} is not")
            if path.is_dir() and self.revision:
                raise ParameterError("model.revision", f"{path} is the folder of one model, which has no revisions")
            if path.is_dir() and not (path / "config.json").is_file():
                raise ParameterError(KEY, f"{path} is no folder of a model: it has no config.json, and no recipe.yaml")
            if not path.is_dir() and (path.is_absolute() or is_path(self.model_name_or_path)):
                raise ParameterError(KEY, f"{path}: there is no such folder")
            return (str(path) if path.is_dir() else self.model_name_or_path), self.revision
        try:
            manifest = Manifest.load(path)
        except ValueError as error:
            raise ParameterError(KEY, str(error)) from None
        _, entry = choose_kept(path, manifest, self.revision, "model.revision")
        if damage := entry.damage(path):
            raise ParameterError(KEY, f"{path / entry.path}: {damage}")
        if self.weights not in (None, entry.weights_hash):
            raise ParameterError("model.weights", f"{path / entry.path} has others: {entry.weights_hash}")
        return str(path / entry.path), None

    @cached_property
    def _where(self) -> dict[str, Any]:
        from pipeline.utils.network import hub_unreachable

        # Without a network the clients try for a minute before they look for what was downloaded before.
        is_here = Path(self.origin[0]).is_dir() or hub_unreachable() is not None
        return {"revision": self.origin[1], "local_files_only": is_here}

    @cached_property
    def _runs_code(self) -> bool:
        from pipeline.config.trust import runs_code

        return runs_code(self.origin[0], self.trust_remote_code, **self._where)

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        with readable(self.model_name_or_path, "configuration"):
            return AutoConfig.from_pretrained(self.origin[0], trust_remote_code=self._runs_code, **self._where)

    @cached_property
    def max_length(self) -> int:
        return longest(self._config)

    def short_forward(self, model: PreTrainedModel) -> str | None:
        return forward_of(model)

    def known_edges(self) -> str | None:
        has_code = self._runs_code and getattr(self._config, "auto_map", None)
        return None if has_code else edges_of(self._config)

    # The model

    def build(self, vocab_size: int) -> PreTrainedModel:
        """The base model with at least `vocab_size` rows of embeddings; those from there on are its own."""
        import torch
        from transformers import AutoModelForCausalLM

        from pipeline.models.loading import not_finite

        config, note = usable_generation_config(self.origin[0], self._config, **self._where)
        with readable(self.model_name_or_path, "weights"):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                self.origin[0],
                trust_remote_code=self._runs_code,
                dtype=getattr(torch, self.dtype),
                output_loading_info=True,
                **self._where,
                **({} if config is None else {"generation_config": config}),
            )
        model, notes = loaded
        missing = sorted(notes["missing_keys"])
        if missing:
            raise ParameterError(KEY, f"{self.origin[0]} lacks weights of its architecture: {', '.join(missing[:3])}")
        if name := not_finite(model.state_dict()):
            raise ParameterError(KEY, f"{self.origin[0]}: its weight {name} is not finite")
        model.note = note  # for the announcement of a run
        return model

    def for_corpus(self, stored: StoredCorpus) -> PreTrainedModel:
        """The base model with an embedding for every token of `tokenizer`, new ones drawn from the global seed."""
        added = self.added(stored)
        model: Any = self.build(added.stop)
        rows = model.get_input_embeddings().weight.shape[0]
        if added.start > rows:
            raise ParameterError(
                KEY, f"its tokenizer has {added.start:,} tokens, and its embeddings only {rows:,} rows"
            )
        if added:
            from pipeline.models.added_rows import draw_rows

            draw_rows(model, added.start, added.stop, self.new_embeddings)
        check_saved(self.model_name_or_path, model)
        self._freeze(model)
        return model

    def _freeze(self, model: Any) -> None:
        weights = dict(model.named_parameters(remove_duplicate=False))
        for pattern in self.freeze:
            chosen = fnmatch.filter(weights, pattern)
            if not chosen:
                kind = type(model).__name__
                raise ParameterError(
                    "model.freeze",
                    f"{pattern!r} is no weight of {kind}: {next(iter(weights))}, ...{did_you_mean(pattern, weights)}",
                )
            for name in chosen:
                weights[name].requires_grad_(False)

    # Words

    @property
    def rewords(self) -> bool:
        return self.vocabulary == "text"

    @cached_property
    def _own(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        with readable(self.model_name_or_path, "tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(self.origin[0], trust_remote_code=self._runs_code, **self._where)
            if len(tokenizer) <= len(tokenizer.all_special_ids):  # made up by transformers, where files are missing
                raise FileNotFoundError(NO_VOCABULARY)
            return tokenizer

    def own_tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer, without the words of a corpus."""
        return copy.deepcopy(self._own)

    @cached_property
    def _tokenizers(self) -> dict[str, PreTrainedTokenizerBase]:
        return {}  # by the content hash of a corpus

    def tokenizer(self, stored: StoredCorpus) -> PreTrainedTokenizerBase:
        """The base's tokenizer, as it is read from a kept step; under `vocabulary: tokens` with the corpus's words.

        It puts no tokens around a text, since rows have none.

        Raises:
            ParameterError: when it cannot be saved and read again, or cannot have the corpus's words as tokens.
        """
        if stored.content_hash not in self._tokenizers:
            tokenizer = self.own_tokenizer()
            without_template(tokenizer)
            if self.vocabulary == "tokens":
                add_words(tokenizer, stored.tokens, stored.corpus.separator)
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            with readable(self.model_name_or_path, "tokenizer"):
                self._tokenizers[stored.content_hash] = as_saved(tokenizer, self._runs_code)
        return self._tokenizers[stored.content_hash]

    def added(self, stored: StoredCorpus) -> range:
        """The ids of the tokens that the base's tokenizer lacks."""
        return range(*(max(words.get_vocab().values()) + 1 for words in (self._own, self.tokenizer(stored))))

    def token_ids(self, stored: StoredCorpus, tokenizer: Path | None = None) -> Sequence[int]:
        """The token of the model for each word of the corpus; `tokenizer` is the folder of one that was saved.

        Raises:
            ParameterError: when its words are text, of which each may be several tokens.
        """
        if self.vocabulary == "text":
            raise ParameterError(
                "circuits",
                "of a corpus need one token a word; write model.vocabulary: tokens, or once there are weights give "
                "pairs of prompts as text: python -m pipeline.circuits RUN --data FILE",
            )
        from pipeline.models.loading import tokenizer_of

        ids = (tokenizer_of(tokenizer) if tokenizer else self.tokenizer(stored)).get_vocab()
        if lacking := [word for word in stored.tokens if word not in ids]:
            raise ParameterError("corpus", f"{lacking[0]} is no token of the tokenizer in {tokenizer}")
        return [ids[word] for word in stored.tokens]

    def rows(self, stored: StoredCorpus, split: str, most: int | None = None) -> Rows:
        """A split in the model's tokens."""
        if self.vocabulary == "tokens":
            rows = super().rows(stored, split, most)
            return rows.renamed(self.token_ids(stored))
        from pipeline.data.templates import render

        return render(stored, split, self.tokenizer(stored), self.templates, most)
