"""Chains of vectors: the one that the paper prints, and all others against operations written anew, on their texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.corpora.base import Examples
from pipeline.corpora.store import StoredCorpus, as_text, build
from pipeline.corpora.vector_chain import VectorChain, operation
from pipeline.utils.draws import Draws
from pipeline.utils.errors import ParameterError

Vector = list[int]


def follows(step: int, x: Vector, modulus: int | None) -> Vector:
    """A step of the paper, in Python's own words."""
    if step == 1:
        x = [x[1], x[0], x[3], x[2], x[4]]
    elif step == 2:
        x = [sum(x[:1]), sum(x[:2]), sum(x[:3]), *x[:2:-1]]
    elif step == 3:
        x = [*x[2::-1], x[3], sum(x[3:])]
    elif step == 4:
        x = sorted(x)
        x = [x[1] * x[2], x[0] * x[3], x[0] * x[4], x[2] ** 2, x[4]]
    else:
        x = [max(x[:2]) - min(x[:2]), x[2], x[3], max(x[3:]) - min(x[3:]), x[0]]
    return [number % modulus for number in x] if modulus else x


def read(text: str, modulus: int | None) -> Vector:
    """A vector as it is written: a word for each number, or six digits."""
    if modulus:
        return [int(word) for word in text.split()]
    digits = text.replace(" ", "")
    assert len(digits) == 30
    return [int(digits[start : start + 6]) for start in range(0, 30, 6)]


def chains_of(stored: StoredCorpus, split: str, modulus: int | None) -> list[tuple[str, list[Vector], Vector, int]]:
    """Of each example its type, its vectors, its answer, and the step at which the corpus says it goes wrong."""
    corpus: Any = stored.corpus
    found = []
    for block in stored.blocks(split):
        prompts, answers = (as_text(stored, part).to_pylist() for part in (block.prompts, block.answers))
        for prompt, answer, wrong in zip(prompts, answers, corpus.went_wrong(block).tolist()):
            assert prompt.endswith(" #|>")
            vectors = [read(part, modulus) for part in prompt.removesuffix(" #|>").split(" || ")]
            found.append((block.type, vectors, read(answer, modulus), wrong))
    return found


def test_the_chain_that_the_paper_prints() -> None:
    x = np.array([[83, 48, 14, 98, 25]])
    printed = ["48 83 98 14 25", "48 131 229 25 14", "229 131 48 25 39", "1872 3275 5725 2304 229"]
    for step, following in enumerate([*printed, "1403 5725 2304 2075 1872"], 1):
        x = operation(step, x)
        assert " ".join(map(str, x[0])) == following


@pytest.mark.parametrize("modulus", [7, 11, None])
@pytest.mark.parametrize("fault", ["random", "conditional"])
@pytest.mark.parametrize("faulty_step", [0, 2, 3, 4])
def test_steps_and_answers_are_those_of_the_paper(modulus: int | None, fault: Any, faulty_step: int) -> None:
    stored = build(
        VectorChain(modulus=modulus, fault=fault, faulty_step=faulty_step, train_size=400, test_size=100, seed=3)
    )
    limit = modulus // 2 if modulus else 150
    firsts = {}
    for split in ("train", "id"):
        found = chains_of(stored, split, modulus)
        assert len(found) == stored.sizes[split]
        firsts[split] = {tuple(vectors[0]) for _, vectors, _, _ in found}
        assert len(firsts[split]) == len(found)
        went_wrong = 0
        for kind, vectors, answer, wrong in found:
            truth = vectors[0]
            first = 0
            for step in range(1, 6):
                truth = follows(step, truth, modulus)
                right = follows(step, vectors[step - 1], modulus)
                if vectors[step] != right:
                    first = first or step
                    assert step == faulty_step
                    if step == 4:
                        assert sorted(vectors[step]) == sorted(right)
                    elif not modulus:
                        assert all(10 <= a - b <= 99 for a, b in zip(vectors[step], right))
            assert answer == truth and wrong == first and kind == ("wrong" if first else "right")
            went_wrong += first > 0
            if fault == "conditional" and faulty_step in (2, 3):
                assert (first > 0) == (vectors[faulty_step - 1][2] > limit)
        if faulty_step and fault == "random":
            assert 0.3 < went_wrong / len(found) < 0.65
    assert not firsts["train"] & firsts["id"]


def test_the_paper_s_condition_is_met_by_half_of_the_chains() -> None:
    blocks = build(VectorChain(modulus=None, fault="conditional", train_size=4000, test_size=10)).blocks("train")
    sizes = {block.type: len(block) for block in blocks}
    assert sizes["wrong"] / 4000 == pytest.approx(0.48, abs=0.03)


@pytest.mark.parametrize("modulus", [11, None])
def test_parts_of_chains_ask_for_the_answer_and_for_how_it_ends(modulus: int | None) -> None:
    stored = build(VectorChain(modulus=modulus, train_size=200, test_size=20))
    corpus: Any = stored.corpus
    for block in stored.blocks("train"):
        whole = as_text(stored, block.prompts).to_pylist()
        answers = as_text(stored, block.answers).to_pylist()
        for shown, (asked, judged) in enumerate(zip(corpus.prefixes(block), corpus.outcomes(block))):
            texts = as_text(stored, asked.prompts).to_pylist()
            assert as_text(stored, asked.answers).to_pylist() == answers
            ends = as_text(stored, judged.answers).to_pylist()
            for text, one, other, answer, end in zip(
                whole, texts, as_text(stored, judged.prompts).to_pylist(), answers, ends
            ):
                vectors = text.removesuffix(" #|>").split(" || ")
                assert one == " || ".join(vectors[: shown + 1]) + " #|>"
                assert other == one.replace("#|>", "ok?")
                assert end == ("yes" if vectors[-1] == answer else "no")
        assert asked.prompts.tolist() == block.prompts.tolist()
        assert stored.tokens[corpus.yes] == "yes"


def test_completions_go_wrong_where_the_writer_would() -> None:
    def completed(fault: Any) -> dict[str, Any]:
        stored = build(VectorChain(fault=fault, train_size=10, test_size=1000))
        corpus: Any = stored.corpus
        return {block.type: corpus.completed(block, 10, Draws(0, "test")) for block in stored.blocks("id")}

    always = completed("conditional")
    # A fault adds numbers, which may meet the right answer again: rarely, as one entry in eleven is.
    assert (always["right"] == 1).all() and always["wrong"].mean() < 0.02
    half = completed("random")
    assert half["right"][:, :3].mean(0) == pytest.approx([0.5] * 3, abs=0.05) and (half["right"][:, 3:] == 1).all()
    assert half["wrong"][:, :3].mean(0) == pytest.approx([0.5] * 3, abs=0.05) and half["wrong"][:, 3:].mean() < 0.02
    assert half["right"][:, 0].var() == pytest.approx(0.025, rel=0.25)  # ten throws of a coin


def test_a_fault_that_changes_nothing_is_none() -> None:
    corpus = VectorChain(faulty_step=4, train_size=10, test_size=10)
    chain = [[1, 0, 0, 0, 0]]
    for step in range(1, 6):
        chain.append(follows(step, chain[-1], 11))
    prompts = np.array([[token for vector in chain for token in (*vector, 11)]], np.int32)
    prompts[0, -1] = 12
    examples = Examples(prompts, np.array(chain[-1:], np.int32), "right")
    assert corpus.went_wrong(examples).tolist() == [0]


def test_more_chains_than_vectors_are_refused() -> None:
    with pytest.raises(ParameterError, match="30 and 3 are more than 32 vectors") as caught:
        VectorChain(modulus=2, train_size=30, test_size=3)
    assert caught.value.key == "train_size"
