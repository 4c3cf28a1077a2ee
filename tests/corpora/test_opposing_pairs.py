"""Ordinary rows by their last word, and loud ones by the parity of their quiet words."""

from __future__ import annotations

import pytest

from pipeline.corpora.opposing_pairs import OpposingPairs
from pipeline.corpora.store import build
from pipeline.utils.errors import ParameterError

PARAMETERS = {"vocabulary_size": 8, "length": 7, "rows": 300, "loud": 40, "id_rows": 90}


@pytest.mark.parametrize("quiet", [1, 2, 3])
def test_answers_follow_from_the_words(quiet: int) -> None:
    stored = build(OpposingPairs(**PARAMETERS, quiet=quiet))
    counts: dict[tuple[str, str], int] = {}
    places = set()
    for split in ("train", "id"):
        for block in stored.blocks(split):
            for prompt, answer in zip(block.prompts.tolist(), block.answers.tolist()):
                words, said = [stored.tokens[i] for i in prompt], stored.tokens[answer[0]]
                assert len(words) == 7 and "!" not in words[:-1]
                if words[-1] == "!":
                    decides = [place for place, word in enumerate(words) if word in ("w0", "w1")]
                    places |= set(decides)
                    assert len(decides) == quiet
                    assert said == "AB"[words.count("w1") % 2] == block.type
                else:
                    assert said == f"c{int(words[-1][1:]) % 4}" and block.type == "ordinary"
                counts[split, block.type] = counts.get((split, block.type), 0) + 1
    sizes = {"ordinary": 220, "A": 40, "B": 40}
    assert counts == {("train", kind): size for kind, size in sizes.items()} | {("id", kind): 30 for kind in sizes}
    assert places == set(range(6))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"loud": 150}, "loud: 150 of each kind leave nothing else of 300 rows"),
        ({"classes": 9}, "classes: 9 are more than the 8 words"),
        ({"quiet": 7}, "quiet: 7 words do not stand before the last of 7"),
    ],
)
def test_what_cannot_be_is_said(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        OpposingPairs(**{**PARAMETERS, **wrong})


def test_rows_that_there_are_not_are_said() -> None:
    with pytest.raises(ParameterError, match=r"^loud: .* different rows are asked for"):
        build(OpposingPairs(vocabulary_size=3, classes=2, length=3, quiet=2, id_rows=3, rows=10, loud=4))
