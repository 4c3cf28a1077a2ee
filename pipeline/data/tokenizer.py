"""A closed vocabulary as a Hugging Face tokenizer: one token per word or per `<...>` group, and `<pad>` for others."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pipeline.corpora.base import PAD


def build_tokenizer(tokens: Sequence[str], separator: str) -> PreTrainedTokenizerFast:
    """The tokenizer whose ids are the places of `tokens`; text is read with or without spaces between tokens.

    A word outside the vocabulary becomes padding, which no example shows: libraries try a tokenizer on words of their
    own before they use it. What reads text here refuses such words (`unknown_words`).
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


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: bool) -> list[list[int]] | None:
    """The token ids of each text; None where one has a word that the tokenizer has no token for, not even unknown."""
    if not texts:
        return []
    if any(_is_half(text) for text in texts):
        return None
    try:
        return tokenizer(list(texts), **options)["input_ids"]
    except Exception as error:
        if type(error) is not Exception:  # the library raises the bare class for such a word, and nothing else so
            raise
        return None


def _is_half(text: str) -> bool:
    """Whether a text has half of a surrogate pair, which JSON can write and no tokenizer takes."""
    return any("\ud800" <= sign <= "\udfff" for sign in text)


def unknown_words(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int]) -> list[str]:
    """The words of a text that a tokenizer has no tokens for, given the ids that it made of the text."""
    unknown = tokenizer.unk_token_id
    # GPT-2's unknown token is its end of text, and no word is unknown to it.
    if unknown is None or unknown == tokenizer.eos_token_id or unknown not in ids:
        return []
    words = dict.fromkeys(text.split())
    found = [word for word in words if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]]
    return found or [tokenizer.unk_token]
