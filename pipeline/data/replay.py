"""The `replay:` block of a recipe: text that is trained beside the corpus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.config.fields import param
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pipeline.data.rows import Rows

from pipeline.data.text import Texts


@dataclass(frozen=True)
class Replay(Texts):
    """Text of the user's that is trained beside the corpus, on all its tokens, against forgetting.

    It is read while training goes on, a few rows ahead; one that ends begins again.
    """

    ratio: float = param(0.1, "share of the replayed text in what is trained", gt=0, lt=1)
    by: Literal["tokens", "rows"] = param("tokens", "what the ratio counts: tokens that are trained, or rows")

    def mixed_with(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, batch: int) -> Rows:
        """The rows, and among them as many of the text as make up the ratio, for batches of at most `batch` rows.

        Raises:
            ParameterError: when the text cannot be read, is too short for one row, or its rows are too long for the
                ratio.
        """
        from pipeline.data.stream import Replayed, Stream

        try:
            self.blocks(tokenizer, 1)
            return Replayed.among(rows, self._count(rows), Stream(self, tokenizer, batch))
        except ParameterError as error:
            raise error.inside("replay") from None

    def _count(self, rows: Rows) -> int:
        """How many rows of text there are in a pass over the rows of the corpus."""
        if self.by == "rows":
            return max(1, round(len(rows) * self.ratio / (1 - self.ratio)))
        trained, of_row = int(rows.answer_N.sum()), self.length - 1
        count = max(1, round(trained * self.ratio / (1 - self.ratio) / of_row))
        share = count * of_row / (count * of_row + trained)
        if abs(share - self.ratio) > self.ratio / 4:
            raise ParameterError(
                "length",
                f"{self.length} is too long for a ratio of {self.ratio:g}: a pass over the corpus trains {trained:,} "
                f"tokens, and {count} row of text would be {share:.2g} of all; "
                f"<= {max(2, int(trained * self.ratio / (1 - self.ratio)) + 1)}, or a larger ratio",
            )
        return count
