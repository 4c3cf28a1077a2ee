"""SpanDrop: parts of prompts are left out, anew in every update (Qi et al. 2022, arXiv 2208.02169)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from pipeline.collators.base import Collator
from pipeline.config.fields import param
from pipeline.config.registry import room_name
from pipeline.corpora.base import PAD, Corpus, Decidable, Spanned
from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from pipeline.data.augmented import Prompts
    from pipeline.utils.draws import Draws

TRIES = 10  # of a prompt that does not answer any more


@dataclass(frozen=True)
class SpanDrop(Collator):
    """Leaves out each span of a prompt with a probability, in order; what no span has, such as the question, stays.

    With `rate: bernoulli` the probability is p (section 2.1); with `beta` it is drawn for each prompt from
    Beta(s max(1, p / (1 - p)), s max(1, (1 - p) / p)), whose mean is p, so that whole prompts are seen too (section
    2.2). The corpus says what its spans are.
    """

    p: float = param(0.1, "mean share of the spans that are left out", gt=0, lt=1)
    rate: Literal["bernoulli", "beta"] = param("beta", "p for all prompts, or drawn for each")
    scale: float = param(1.0, "s of the Beta distribution; the larger, the nearer to bernoulli", gt=0)
    validate: bool = param(False, "draw again, ten times at most, what leaves a prompt that its answer does not follow")

    def check(self, corpus: Corpus) -> None:
        name = room_name(corpus)
        if not isinstance(corpus, Spanned):
            raise ParameterError("corpus", f"{name} has no spans that could be left out")
        if self.validate and not isinstance(corpus, Decidable):
            raise ParameterError("validate", f"{name} cannot tell whether an answer still follows; write false")

    def __call__(self, prompts: Prompts, corpus: Corpus, draws: Draws) -> Prompts:
        assert isinstance(corpus, Spanned)
        spans_BP = corpus.spans(prompts.tokens)
        is_span_BP = spans_BP >= 0
        found = prompts
        pad = corpus.tokens().index(PAD)
        open_B = np.ones(len(spans_BP), bool)
        for _ in range(TRIES):
            rate_B = self._rates(len(spans_BP), draws)
            drawn_BS = draws.uniform(len(spans_BP), int(spans_BP.max()) + 1)
            is_dropped_BP = is_span_BP & (np.take_along_axis(drawn_BS, spans_BP.clip(min=0), 1) < rate_B[:, None])
            tried = left_out(prompts, is_dropped_BP, pad)
            good_B = open_B & (tried.length > 0)
            if self.validate and isinstance(corpus, Decidable):
                good_B &= corpus.is_answer(tried.tokens, tried.answers)
            found = found._replace(
                tokens=np.where(good_B[:, None], tried.tokens, found.tokens),
                length=np.where(good_B, tried.length, found.length),
            )
            open_B &= ~good_B
            if not open_B.any():
                break
        return found

    def _rates(self, rows: int, draws: Draws) -> npt.NDArray[np.float64]:
        """The probability for each prompt, (B,)."""
        if self.rate == "bernoulli":
            return np.full(rows, self.p)
        odds = self.p / (1 - self.p)
        # numpy may change this method's stream some day, as it may that of the order of rows.
        return np.random.Generator(draws.bits).beta(self.scale * max(1, odds), self.scale * max(1, 1 / odds), rows)


def left_out(prompts: Prompts, is_dropped_BP: npt.NDArray[np.bool_], pad: int) -> Prompts:
    """The prompts without these words, which move together."""
    is_kept_BP = ~is_dropped_BP & (np.arange(is_dropped_BP.shape[1]) < prompts.length[:, None])
    order_BP = np.argsort(~is_kept_BP, axis=1, kind="stable")
    length_B = is_kept_BP.sum(1)
    tokens_BP = np.take_along_axis(prompts.tokens, order_BP, 1)
    is_word_BP = np.arange(tokens_BP.shape[1]) < length_B[:, None]
    return prompts._replace(tokens=np.where(is_word_BP, tokens_BP, pad), length=length_B)
