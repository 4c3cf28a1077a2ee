"""All sentences of the grammar, and none else: against a regular expression, and a count by hand."""

from __future__ import annotations

import itertools
import re

import pytest

from pipeline.corpora.grammar import Grammar
from pipeline.corpora.store import as_text, build
from pipeline.utils.errors import ParameterError

THING, COLOUR, PLACE = "(ball|box|cup)", "((red|blue) )", "(near|behind)"
QUESTION = re.compile(
    rf"<s> (is there a {COLOUR}?{THING}( {PLACE} the {THING})?"
    rf"|is the {COLOUR}?{THING} larger than the {COLOUR}?{THING}"
    rf"|what colour is the {THING}( {PLACE} the {THING})?) \?"
)
SMALL = {"things": 3, "colours": 2, "prepositions": 2, "train_size": 80, "test_size": 40}


def test_its_sentences_are_all_that_the_grammar_has() -> None:
    corpus = Grammar(**SMALL)
    words = corpus.vocabulary()
    sentences = [" ".join(words[token] for token in row) for block in corpus.sentences() for row in block.tolist()]
    named = 3 * (2 + 1)
    assert len(sentences) == len(set(sentences)) == named + named * 2 * 3 + named * named + 3 + 3 * 2 * 3
    assert all(QUESTION.fullmatch(sentence) for sentence in sentences)
    # No other string of five words is one: all of them are tried.
    short = {sentence for sentence in sentences if len(sentence.split()) == 7}
    likely = ["is", "there", "a", "the", "what", "colour", "ball", "box", "cup", "red", "blue", "near"]
    tried = {f"<s> {' '.join(five)} ?" for five in itertools.product(likely, repeat=5)}
    assert {text for text in tried if QUESTION.fullmatch(text)} == short


def test_splits_are_different_sentences_of_it() -> None:
    stored = build(Grammar(**SMALL))
    assert stored.sizes == {"train": 80, "id": 40}
    found = {}
    for split in stored.sizes:
        blocks = [(as_text(stored, b.prompts).to_pylist(), as_text(stored, b.answers).to_pylist())
                  for b in stored.blocks(split)]  # fmt: skip
        texts = [f"{prompt} {answer}" for prompts, answers in blocks for prompt, answer in zip(prompts, answers)]
        assert all(QUESTION.fullmatch(text) for text in texts)
        found[split] = set(texts)
    assert len(found["train"]) == 80 and len(found["id"]) == 40 and not found["train"] & found["id"]


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ParameterError, match="150 and 50 are more than the 165 sentences") as caught:
        Grammar(**{**SMALL, "train_size": 150, "test_size": 50})
    assert caught.value.key == "train_size"
