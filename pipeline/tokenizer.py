"""A closed vocabulary as a Hugging Face tokenizer: one token per word or per `<...>` group, and nothing unknown."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.corpora.base import PAD


def build_tokenizer(tokens: Sequence[str], separator: str) -> PreTrainedTokenizerFast:
    """The tokenizer whose ids are the places of `tokens`; text is read with or without spaces between tokens.

    There is no unknown token: text outside the vocabulary raises an error instead of training on noise.
    """
    model = models.WordLevel({token: i for i, token in enumerate(tokens)})
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
        eos_token=end,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
