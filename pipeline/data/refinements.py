"""Answers that a model writes, criticizes by its corpus's words, and writes anew: data for imitation.

Tensor names carry their shape: N rows, B rows of one shape, P tokens of a prompt, T of a prompt with its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.corpora.base import Criticizing
from pipeline.data.rows import Rows, from_lists

Tokens = list[int]


@dataclass(frozen=True)
class Drafted(Rows):
    """Rows whose answers are to be written by the model that training starts from.

    `ids` is the token in the rows of each word of the corpus, `stops` the words with which some answer ends.
    """

    corpus: Any = None
    ids: Sequence[int] = ()
    stops: frozenset[int] = field(default_factory=frozenset)

    def to(self, device: torch.device) -> Drafted:
        moved = super().to(device)
        return Drafted(moved.tokens_NT, moved.prompt_N, moved.answer_N, self.corpus, self.ids, self.stops)


@torch.no_grad()
def written(model: Any, prompts: Sequence[Tokens], longest: int, stops: frozenset[int], **how: Any) -> list[Tokens]:
    """What a model writes after prompts, up to a token at which an answer ends, or so many tokens.

    Args:
        model: With `generate`.
        prompts: In the tokens of the model.
        longest: Most tokens of an answer.
        stops: Tokens at which an answer ends, which are part of it.
        how: Further arguments of `generate`, such as do_sample.
    """
    found: list[Tokens] = [[] for _ in prompts]
    # Prompts of one length at a time, so that none needs padding.
    for length in sorted({len(prompt) for prompt in prompts}):
        at = [row for row, prompt in enumerate(prompts) if len(prompt) == length]
        prompt_BP = torch.tensor([prompts[row] for row in at], device=model.device)
        tokens_BT = model.generate(
            prompt_BP, attention_mask=torch.ones_like(prompt_BP), max_new_tokens=longest,
            eos_token_id=sorted(stops), pad_token_id=min(stops), **how,
        )  # fmt: skip
        for row, tokens in zip(at, tokens_BT[:, length:].tolist()):
            end = next((place for place, token in enumerate(tokens, 1) if token in stops), len(tokens))
            found[row] = tokens[:end]
    return found


def refined(model: Any, rows: Drafted, refinements: int, temperature: float, only_right: bool) -> Rows:
    """The same prompts with what the model makes of its own drafts once it has read what is wrong with them.

    Of several refinements the first is taken that is right, or else the first; a draft with which nothing is wrong
    stays.

    Args:
        model: That training starts from; drafts and single refinements are its likeliest words.
        rows: With prompts to answer.
        refinements: How many are drawn of each draft.
        temperature: Of the draws, where there are several.
        only_right: Rows whose answer is not right are left out.
    """
    corpus: Criticizing = rows.corpus
    word = {token: number for number, token in enumerate(rows.ids)}
    prompts = [row[:length] for row, length in zip(rows.tokens_NT.tolist(), rows.prompt_N.tolist())]
    longest = int(rows.answer_N.max())

    def as_words(tokens: Tokens) -> Tokens:
        return [word.get(token, -1) for token in tokens]

    drafts = written(model, prompts, longest, rows.stops, do_sample=False)
    texts = [
        None if -1 in (words := as_words(draft)) else corpus.feedback(as_words(prompt), words)
        for prompt, draft in zip(prompts, drafts)
    ]
    open_rows = [row for row, text in enumerate(texts) if text is not None]
    asked = [[rows.ids[number] for number in texts[row] or ()] for row in open_rows]
    room = getattr(model.config, "max_position_embeddings", 1 << 30) - longest
    fitting = [(row, text) for row, text in zip(open_rows, asked) if len(text) <= room]
    best = dict(enumerate(drafts))
    is_right = {row: corpus.is_right(as_words(prompts[row]), as_words(draft)) for row, draft in best.items()}
    how = {"do_sample": True, "temperature": temperature, "top_k": 0} if refinements > 1 else {"do_sample": False}
    for attempt in range(refinements):
        answers = written(model, [text for _, text in fitting], longest, rows.stops, **how)
        for (row, _), answer in zip(fitting, answers):
            right = corpus.is_right(as_words(prompts[row]), as_words(answer))
            if attempt == 0 or (right and not is_right[row]):
                best[row], is_right[row] = answer, right
    kept = [row for row in best if is_right[row] or not only_right]
    found = from_lists([prompts[row] for row in kept], [best[row] for row in kept]) if kept else rows.first(0)
    return found.to(rows.tokens_NT.device)
