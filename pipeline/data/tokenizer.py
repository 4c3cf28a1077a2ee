"""A closed vocabulary as a Hugging Face tokenizer: one token per word or per `<...>` group, and `<pad>` for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pipeline.corpora.base import PAD


def build_tokenizer(tokens: Sequence[str], separator: str) -> PreTrainedTokenizerFast:
    """The tokenizer whose ids are the places of `tokens`; text is read with or without spaces between tokens.

    A word outside the vocabulary becomes padding, which no example shows: libraries try a tokenizer on words of their
    own before they use it. What reads text here refuses such words (`encode`).
    """
    model = models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=PAD)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"<[^<>\s]+>"), "isolated"), pre_tokenizers.WhitespaceSplit()]
    )
    if not separator:
        tokenizer.decoder = decoders.Fuse()
    end = next((token for token in ("</a>", "<eos>") if token in tokens), None)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=PAD,
        eos_token=end,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


NOBODY_S = "\ue000"  # a character of the area for private use, which no vocabulary has


class UnknownWordsError(ValueError):
    """A text has words that a tokenizer has no tokens for."""

    def __init__(self, text: str, words: Sequence[str]):
        super().__init__(f"{text!r:.80} has words that the model has no tokens for: {', '.join(words[:5])}")
        self.words = words


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: bool) -> list[list[int]]:
    """The token ids of each text; `options` are the tokenizer's.

    Raises:
        UnknownWordsError: at the first text with a word that the tokenizer has no token for.
    """
    rows = _known_ids(tokenizer, texts, options)
    for place, text in enumerate(texts):
        if rows is None:
            words = dict.fromkeys(text.split())
            lacking = [ascii(word) for word in words if _known_ids(tokenizer, [word], options) is None]
        else:
            lacking = unknown_words(tokenizer, text, rows[place])
        if lacking:
            raise UnknownWordsError(text, lacking)
    if rows is None:  # none of the words alone is unknown
        raise UnknownWordsError(" ".join(texts), [ascii(text) for text in texts])
    return rows


def _known_ids(tokenizer: Any, texts: Sequence[str], options: Mapping[str, bool]) -> list[list[int]] | None:
    """The token ids of each text; None where a word has no token, and the tokenizer none for unknown words."""
    try:
        for text in texts:
            text.encode()  # half of a surrogate pair, which JSON can write, is a TypeError to the library
        return tokenizer(list(texts), **options)["input_ids"] if texts else []
    except UnicodeEncodeError:
        return None
    except Exception as error:  # tokenizers raises the bare class for a word that it lacks, and for nothing else
        if type(error) is not Exception:
            raise
        return None


def unknown_words(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int]) -> list[str]:
    """The words of a text that a tokenizer has no tokens for, given the ids that it made of the text."""
    unknown, words = tokenizer.unk_token_id, dict.fromkeys(text.split())

    def of(part: str) -> list[int] | None:
        rows = _known_ids(tokenizer, [part], {"add_special_tokens": False})
        return rows[0] if rows else None

    if unknown is None:
        # Byte pairs over characters leave out those that they do not know: how many there are then makes no difference.
        if of(NOBODY_S) != of(2 * NOBODY_S):
            return []
        return [word for word in words if any(of(word) == of(word.replace(sign, "")) for sign in set(word))]
    # GPT-2's unknown token is its end of text, and no word is unknown to it.
    if unknown == tokenizer.eos_token_id or unknown not in ids:
        return []
    return [word for word in words if unknown in (of(word) or ())] or [tokenizer.unk_token]
