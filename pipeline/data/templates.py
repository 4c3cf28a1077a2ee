"""Rows of a corpus as natural text, through templates, in the tokens of a model."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pipeline.corpora.base import Ids
    from pipeline.corpora.store import StoredCorpus
    from pipeline.data.rows import Rows

TOGETHER = 100  # rows that are tokenized at a time

ENDS = ("</a>", "<eos>")  # where an answer ends; in text it does not say so


def render(
    stored: StoredCorpus,
    split: str,
    tokenizer: PreTrainedTokenizerBase,
    templates: Mapping[str, str],
    most: int | None = None,
) -> Rows:
    """A split as text in the tokens of a model; `most` draws that many rows, those that `load_rows` draws.

    Raises:
        ParameterError: when a template asks for what the prompts do not have.
    """
    import numpy as np

    from pipeline.utils.seeds import sample

    drawn = sample(stored.sizes[split], most, split, "probe")
    chosen = np.full(stored.sizes[split], drawn is None)
    chosen[drawn if drawn is not None else ()] = True
    prompts, answers, start = list[str](), list[str](), 0
    for block in stored.blocks(split):
        block = block.take(np.flatnonzero(chosen[start : (start := start + len(block))]))
        if not len(block):
            continue
        head = heads(stored, block.prompts, block.type, templates, prompts)
        answers += (said(stored, head, row) for row in block.answers.tolist())
    return encode_rows(tokenizer, prompts, answers)


def heads(stored: StoredCorpus, rows: Ids, kind: str, templates: Mapping[str, str], prompts: list[str]) -> str:
    """Add the text of prompts of a type (n, P) to a list; returns the template, without its answer.

    Raises:
        ParameterError: when it asks for what the prompts do not have.
    """
    from pipeline.corpora.store import as_text

    name = next((name for name in templates if fnmatch.fnmatchcase(kind, name)), "default")
    head = templates[name].removesuffix("{answer}")
    texts = as_text(stored, rows).to_pylist()
    for prompt, row in zip(texts, rows.tolist()):
        fields = {f"p{place}": stored.tokens[token].strip("<>") for place, token in enumerate(row)}
        try:
            prompts.append(head.format(prompt=prompt, **fields))
        except (KeyError, IndexError, ValueError) as error:
            allowed = ", ".join(f"{{{field}}}" for field in ("prompt", *fields, "answer"))
            raise ParameterError(
                f"model.templates.{name}", f"{templates[name]!r} does not fit ({error}); allowed: {allowed}"
            ) from None
    return head


def said(stored: StoredCorpus, head: str, answer: Sequence[int]) -> str:
    """An answer in the words of a template, without what ends it."""
    words = (stored.tokens[token] for token in answer)
    bare = "{prompt}" not in head
    return stored.corpus.separator.join(word.strip("<>") if bare else word for word in words if word not in ENDS)


def encode_rows(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], answers: Sequence[str]) -> Rows:
    """Rows of a text each; spaces between prompt and answer are tokenized with the answer, as inside any text.

    Raises:
        ParameterError: when a prompt alone is read otherwise than in its row, or has no tokens, or when the tokenizer
            has none for a word.
    """
    from pipeline.data.rows import from_lists
    from pipeline.data.tokenizer import UnknownWordsError, encode

    heads, tails = list[list[int]](), list[list[int]]()
    for start in range(0, len(prompts), TOGETHER):
        begun = prompts[start : start + TOGETHER]
        texts = [prompt + answer for prompt, answer in zip(begun, answers[start : start + TOGETHER])]
        begun = [prompt.rstrip(" ") for prompt in begun]
        try:
            wholes, heads_ids = encode(tokenizer, texts), encode(tokenizer, begun)
        except UnknownWordsError as error:
            raise ParameterError("model.templates", str(error)) from None
        for prompt, head, whole in zip(begun, heads_ids, wholes):
            if not head:
                raise ParameterError("model.templates", "a prompt has no text before its answer")
            if whole[: len(head)] != head or len(whole) == len(head):
                shown = [tokenizer.convert_ids_to_tokens(ids) for ids in (head, whole)]
                raise ParameterError(
                    "model.templates",
                    f"{prompt!r} is read as {shown[0]}, but before its answer as {shown[1]}; "
                    "write a space before {answer}",
                )
            heads.append(head)
            tails.append(whole[len(head) :])
    return from_lists(heads, tails)
