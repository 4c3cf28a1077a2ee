"""What a continued model still knows: its perplexity on a text that is not trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.callbacks.base import Callback, Trainer
from pipeline.config.fields import param
from pipeline.utils.errors import ParameterError
from pipeline.utils.paths import expanded

if TYPE_CHECKING:
    from pipeline.data.text import Texts


@dataclass
class BasePerplexity(Callback):
    """Logs `base_perplexity` of a held-out text, in the words of the base's tokenizer, at every evaluation.

    Logs nothing for a model that is not continued.
    """

    source: str = param("", "a file or folder of text, or a dataset's name")
    config: str | None = param(None, "configuration of a dataset")
    split: str = param("test", "of a folder or a dataset, by the rules of datasets")
    column: str = param("text", "that holds the text")
    length: int = param(64, "tokens of a row", ge=2)
    rows: int = param(64, "most rows", ge=1)
    _tokens: Any = field(default=None, init=False, repr=False)

    @classmethod
    def tiny(cls, folder: Path = Path()) -> BasePerplexity:
        text = folder / "text.txt"
        text.write_text("a b\n" * 8, encoding="utf-8")
        return cls(str(text), length=4)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._tokens is not None:
            self.trainer.log({"base_perplexity": perplexity(self.trainer.model, self._tokens, args.eval_batch_size)})

    def texts(self) -> Texts:
        """The text it reads. What has no splits is read as it is by default."""
        from pipeline.data.sources import is_whole as is_whole_source
        from pipeline.data.text import Texts

        is_whole = self.split == "test" and is_whole_source(expanded(self.source, "source"))
        return Texts(self.source, self.config, "train" if is_whole else self.split, self.column, self.length)

    def attach(self, trainer: Trainer) -> None:
        """Reads the text before anything is trained."""
        tokenizer = trainer.recipe.model.own_tokenizer()
        if tokenizer is not None:
            try:
                self._tokens = self.texts().blocks(tokenizer, self.rows).to(trainer.args.device)
            except ParameterError as error:
                raise error.inside("callbacks.base_perplexity") from None
        super().attach(trainer)


def perplexity(model: Any, tokens: Any, batch: int = 64) -> float:
    """exp of the mean negative log likelihood of tokens (N, T), each but the first given those before it."""
    import torch
    from torch.nn import functional as F

    was_training = model.training
    model.eval()
    with torch.no_grad():
        total = 0.0
        for rows in tokens.split(batch):
            logits_BTV = model(input_ids=rows, use_cache=False).logits[:, :-1].float()
            total += F.cross_entropy(logits_BTV.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum").item()
    model.train(was_training)
    return math.exp(min(total / tokens[:, 1:].numel(), 700.0))
