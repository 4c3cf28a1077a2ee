"""FindCats: shares and strings against brute force, answers against a regular expression."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest

from pipeline.corpora.findcats import Findcats, share_without, without
from pipeline.corpora.store import build
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError


@pytest.mark.parametrize("word", ["a", "ab", "aa", "cat", "aba"])
def test_the_share_of_strings_without_a_word_is_that_of_all_strings(word: str) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    for length in (1, 2, 3):
        strings = map("".join, itertools.product(letters, repeat=length))
        lacking = sum(not re.search(".*".join(word), text) for text in strings)
        assert share_without(length, len(word))[length, len(word)] == pytest.approx(lacking / 26**length, rel=1e-12)


@pytest.mark.parametrize("word", [[0], [0, 1], [1, 1]])
def test_strings_without_it_are_equally_likely(word: list[int]) -> None:
    rows = 40_000
    drawn = without(np.array(word), rows, 2, Draws(0, "test"))
    counts = np.bincount(drawn @ [26, 1], minlength=676)
    allowed = [not (word[0] in pair if len(word) == 1 else list(pair) == word) for pair in np.ndindex(26, 26)]
    assert not counts[np.logical_not(allowed)].any()
    expected = rows / sum(allowed)
    chi2 = ((counts[allowed] - expected) ** 2 / expected).sum()
    assert abs(chi2 - (sum(allowed) - 1)) < 4.5 * np.sqrt(2 * sum(allowed))


def test_answers_positions_and_splits(tmp_path: object) -> None:
    corpus = Findcats(
        length=30, train_size=600, test_size=300, words=("cat", "ibis"), other_words=("puma",),
        other_lengths=(20, 40), within=12,
    )  # fmt: skip
    stored = build(corpus)
    assert stored.sizes == {"train": 600, "id": 300, "ood_length": 300, "ood_word": 300, "ood_position": 300}
    late = {}
    for split in stored.sizes:
        found = []
        for block in stored.blocks(split):
            for prompt, answer in zip(block.prompts.tolist(), block.answers[:, 0].tolist()):
                words = [stored.tokens[token] for token in prompt]
                stop = words.index("<sep>")
                word, text = "".join(words[1:stop]), "".join(words[stop + 1 : -1])
                assert words[0] == "<cls>" and words[-1] == "<sep>" and word == block.type
                is_there = bool(re.search(".*".join(word), text))
                assert stored.tokens[answer] == ("yes" if is_there else "no")
                found.append((word, len(text), is_there, bool(re.search(".*".join(word), text[:12]))))
        words, lengths, answers, early = (set(part) if i < 2 else part for i, part in enumerate(zip(*found)))
        assert words == ({"puma"} if split == "ood_word" else {"cat", "ibis"})
        assert lengths == ({20, 40} if split == "ood_length" else {30})
        assert 0.4 < np.mean(answers) < 0.6
        late[split] = sum(a and not e for a, e in zip(answers, early))
    assert late["train"] == late["id"] == 0 and late["ood_position"] > 50


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("words", {"words": ()}), ("words", {"words": ("cat", "cat")}), ("words", {"other_words": ("cat",)}),
        ("other_words", {"other_words": ("Cat",)}), ("other_lengths", {"other_lengths": (60,)}),
        ("other_lengths", {"other_lengths": (7,)}), ("within", {"within": 61}), ("length", {"length": 9}),
    ],
)  # fmt: skip
def test_parameters_that_do_not_go_together(key: str, values: dict[str, Any]) -> None:
    with pytest.raises(ParameterError) as caught:
        Findcats(**values)
    assert caught.value.key == key
