"""Words of a corpus in a tokenizer: as tokens of their own, and the proof that text and token ids say the same.

Models here are trained on ids, and others use them by text. So before training, for every row of every split,
tokenizing its text gives its ids, or the run is refused.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.utils.errors import ParameterError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pipeline.corpora.store import StoredCorpus

SAMPLE = 100  # rows of each split that are tokenized whole beside the proof
TOGETHER = 10_000  # texts that are tokenized at a time


def add_words(tokenizer: Any, words: Sequence[str], separator: str) -> None:
    """Makes each word one token wherever it stands, with an id beyond all others where the tokenizer lacks it.

    A word that the tokenizer has keeps its id, and is no longer read as a part of others.

    Raises:
        ParameterError: when there are no ids for new words beyond the others.
    """
    from tokenizers import AddedToken, Tokenizer

    known = tokenizer.get_vocab()
    first = max(known.values()) + 1
    new = {word: first + number for number, word in enumerate(word for word in words if word not in known)}
    if len(known) < first:  # new tokens would get the ids from len(known) on, some of which are in use
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        vocabulary = state["model"].get("vocab")
        if not isinstance(vocabulary, dict):
            raise ParameterError("model.vocabulary", "the base's vocabulary has holes; write vocabulary: text")
        vocabulary.update(new)
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    spaced = separator.isspace()  # then a word inside a longer one is none; spaces before a word are part of it
    tokenizer.add_tokens(
        [
            AddedToken(
                word, lstrip=True, single_word=spaced and re.fullmatch(r"\w+", word) is not None, normalized=False
            )
            for word in words
        ]
    )
    ids = tokenizer.get_vocab()
    if wrong := [word for word, number in new.items() if ids.get(word, -1) < first]:
        raise ParameterError(
            "model.vocabulary", f"the base's tokenizer takes no token {wrong[0]!r}; write vocabulary: text"
        )


def without_template(tokenizer: Any) -> None:
    """Takes away the tokens that a tokenizer puts around every text, since no row begins or ends with them."""
    # An empty text has no other tokens, and no word that a vocabulary could lack.
    if not any(_ids(tokenizer, [""])):
        return
    for name in ("add_bos_token", "add_eos_token"):
        if getattr(tokenizer, name, None):
            setattr(tokenizer, name, False)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and any(_ids(tokenizer, [""])):
        from tokenizers import processors

        backend.post_processor = processors.Sequence([])


def as_saved(tokenizer: PreTrainedTokenizerBase, trusted: bool) -> PreTrainedTokenizerBase:
    """The tokenizer as it will be read from a kept step: saved, and loaded again."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        again = AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
    again.name_or_path = tokenizer.name_or_path
    for place in ("name_or_path", "is_local", "local_files_only"):  # of where it was read, no part of what it is
        again.init_kwargs.pop(place, None)
    return again


def check_text(stored: StoredCorpus, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], key: str) -> None:
    """Whether tokenizing the text of every row gives its ids, where token i of the corpus has the id ids[i].

    Every word is tokenized alone. That proves all rows where the tokenizer cuts a text at the borders of words, see
    `_cuts_words`; a few rows are tokenized nevertheless. For any other tokenizer all of them are.

    Raises:
        ParameterError: naming `key`, with the first text that reads otherwise.
    """
    import numpy as np

    from pipeline.corpora.store import as_text

    new = np.asarray(ids, dtype=np.int64)
    is_used = np.zeros(len(new), bool)
    for split in stored.sizes:
        for block in stored.blocks(split):
            for part in (block.prompts, block.answers):
                is_used[part.ravel()] = True
    used = np.flatnonzero(is_used)
    words = [stored.tokens[place] for place in used]
    _check_same_tokens(words, new[used][:, None], tokenizer, key)
    is_proved = _cuts_words(tokenizer, words, stored.corpus.separator)
    for split in stored.sizes:
        for block in stored.blocks(split):
            for start in range(0, len(block), TOGETHER):
                some = block.take(slice(start, start + (SAMPLE if is_proved else TOGETHER)))
                for rows in (some.prompts, np.hstack([some.prompts, some.answers])):
                    _check_same_tokens(as_text(stored, rows).to_pylist(), new[rows], tokenizer, key)
                if is_proved:
                    break


def _check_same_tokens(texts: Sequence[str], ids_NT: Any, tokenizer: Any, key: str) -> None:
    for text, found, right in zip(texts, _ids(tokenizer, texts), ids_NT.tolist()):
        if found != right:
            shown = tokenizer.convert_ids_to_tokens(found)
            raise ParameterError(
                key,
                f"the text {text!r} is read as the tokens {shown}, and the model would be trained on "
                f"{tokenizer.convert_ids_to_tokens(right)}; rename words of the corpus, or write vocabulary: text",
            )


def _cuts_words(tokenizer: Any, words: Sequence[str], separator: str) -> bool:
    """Whether a text of words, each of which alone is one token, is cut at their borders for certain.

    tokenizers first looks for added tokens, from left to right and the longest at each place. At the beginning of a
    word that is the word itself, as it is alone, if it is such a token and none reaches beyond its end. The same then
    holds at the beginning of the next word, if no token begins in the separator and the word takes spaces before it
    along. Where words are no added tokens, `build_tokenizer`'s cut at spaces and around `<...>`, whatever is beside.
    """
    from pipeline.corpora.base import PAD
    from pipeline.data.tokenizer import build_tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or (separator and not separator.isspace()) or any(re.search(r"\s", word) for word in words):
        return False
    added = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
    borders = {
        border
        for last in {word[-1] for word in words}
        for first in {word[0] for word in words}
        for border in ((last + separator[0], separator[-1] + first) if separator else (last + first,))
    }
    if any(border in content for content in added for border in borders) or any(key in separator for key in added):
        return False
    if all(word in added for word in words):
        tokens = [added[word] for word in words]
        if separator:
            return all(token.lstrip and not token.normalized for token in tokens)
        return not any(token.single_word or token.normalized for token in tokens)
    ours = build_tokenizer([PAD], separator).backend_tokenizer
    is_ours = str(backend.pre_tokenizer) == str(ours.pre_tokenizer) and type(backend.model) is type(ours.model)
    bracketed = all(re.fullmatch(r"<[^<>\s]+>", word) for word in words)
    return is_ours and backend.normalizer is None and (bool(separator) or bracketed)


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return tokenizer(list(texts))["input_ids"] if texts else []
