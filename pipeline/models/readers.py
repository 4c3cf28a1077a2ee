"""A kept step as others read it: where generation ends, how long a sequence may be, and that it is cached.

Training needs none of that, and models here are built without special tokens; it stands in what is saved alone.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.corpora.base import PAD
from pipeline.data.templates import ENDS
from pipeline.models.families import longest

# The end of texts where the words of a corpus have none: a token that no example shows, and no model here says.
END = "<reserved_0>"


def for_readers(tokenizer: PreTrainedTokenizerBase, config: Any) -> PreTrainedTokenizerBase:
    """Returns a copy of a tokenizer with an end of text and the longest sequence of the model.

    Libraries that score or generate text take for granted that there is a token that ends it.
    """
    found = copy.deepcopy(tokenizer)
    known = found.get_vocab()
    if found.eos_token is None:
        found.eos_token = next((token for token in (END, found.pad_token, found.unk_token) if token in known), None)
    if (most := longest(config)) < sys.maxsize:
        found.model_max_length = min(found.model_max_length, most)
    return found


def complete(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, answer: int) -> None:
    """Writes into a saved model's configuration files how it is used: cached, greedily, up to the end of an answer.

    Args:
        folder: Where `save_pretrained` wrote.
        model: The model, which stays as it is.
        tokenizer: As it is saved beside it.
        answer: Tokens of the longest answer; generation in the closed vocabulary of a corpus ends after so many.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["use_cache"] = True
    if config.get("eos_token_id") is None:
        config["eos_token_id"] = tokenizer.eos_token_id
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    generation = copy.deepcopy(model.generation_config)
    if generation is None:  # of a model that cannot generate
        return
    generation.use_cache, generation._from_model_config = True, False
    if generation.eos_token_id is None:
        generation.eos_token_id = tokenizer.eos_token_id
    # A base that learned the words of a corpus ends an answer by its end word, and a text by its own.
    known = tokenizer.get_added_vocab()  # where the corpus's words are; one that the base alone has ends nothing
    ends = [known[word] for word in ENDS if word in known]
    given = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
    if more := [end for end in ends if end not in given]:
        generation.eos_token_id = [*(end for end in given if end is not None), *more]
    if generation.pad_token_id is None:
        generation.pad_token_id = tokenizer.pad_token_id
    if tokenizer.unk_token == PAD:
        generation.max_new_tokens, generation.do_sample = answer, False
    generation.save_pretrained(folder)
