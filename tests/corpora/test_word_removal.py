"""Sentences and what is left of them, worked out on their texts; the feedback on drafts; counts of the paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.corpora.base import Criticizing
from pipeline.corpora.store import StoredCorpus, as_text, build
from pipeline.corpora.word_removal import NOUNS, WordRemoval
from pipeline.utils.errors import ParameterError


def texts(stored: StoredCorpus, split: str) -> list[tuple[str, str, str]]:
    """Type, prompt and answer of each example."""
    found = []
    for block in stored.blocks(split):
        sides = (as_text(stored, part).to_pylist() for part in (block.prompts, block.answers))
        found += [(block.type, *pair) for pair in zip(*sides)]
    return found


def test_what_is_named_is_removed_and_nothing_else() -> None:
    corpus = WordRemoval(rows=60)
    stored = build(corpus)
    sizes = stored.sizes
    cells = {f"k{k}_r{r}" for k in range(1, 11) for r in range(1, min(k, 3) + 1)}
    assert sizes.keys() == {"train", "id", "ood_words", *cells} and len(cells) == 27
    # 50 sentences of each, as in the paper; of 30 nouns with one place for each of two words there are 60.
    assert {sizes[cell] for cell in cells - {"k1_r1"}} == {50} and sizes["k1_r1"] == 15
    assert sizes["id"] == sum(sizes[cell] for cell in cells if int(cell[1:-3]) <= 6)
    known, unseen = set(NOUNS[:30]), set(NOUNS[50:])
    prompts: dict[str, set[str]] = {}
    for split in sizes:
        rows = texts(stored, split)
        prompts[split] = {prompt for _, prompt, _ in rows}
        places = set()
        for kind, prompt, answer in rows:
            sentence, named = prompt.removesuffix(" gives").split(" . remove ")
            words, gone = sentence.split(" and "), named.split(" and ")
            k, r = len(words) - 1, len(gone)
            assert kind == f"k{k}_r{r}" and len(set(words)) == k + 1 and len(set(gone)) == r
            assert split in (kind, "train", "id", "ood_words") and (split not in ("train", "id") or k <= 6)
            assert set(words) - {"person"} <= (unseen if split == "ood_words" else known)
            assert words.count("person") == 1 and set(gone) <= set(words) - {"person"}
            assert answer == " and ".join(word for word in words if word not in gone) + " ."
            places.add(words.index("person") / k)
        assert split == "k1_r1" or {0.0, 1.0} <= places
    for split in sizes.keys() - {"train"}:
        assert not prompts[split] & prompts["train"]
    assert prompts["k5_r2"] <= prompts["id"]


@pytest.mark.parametrize("task", ["write", "wanted"])
def test_writers_write_what_is_given_or_what_is_wanted(task: str) -> None:
    corpus = WordRemoval(tasks=(task,), rows=40)
    stored = build(corpus)
    assert stored.sizes.keys() == {"train", "id"}
    unwanted = set(NOUNS[20:30])
    counts = set()
    for split in stored.sizes:
        for kind, prompt, answer in texts(stored, split):
            first, *words, last = prompt.split()
            assert (first, last, kind) == ("write", ":", task)
            bad = [word for word in words if word in unwanted]
            counts.add((len(words) - 1, len(bad)))
            kept = [word for word in words if task == "write" or word not in bad]
            assert answer == " and ".join(kept) + " ."
    assert counts == {(k, bad) for k in range(1, 7) for bad in range(min(k, 3) + 1)}


def test_feedback_names_what_is_unwanted_and_a_right_answer_has_none_of_it() -> None:
    corpus = WordRemoval(tasks=("wanted",), rows=20)
    assert isinstance(corpus, Criticizing)
    stored = build(corpus)
    ids = {token: number for number, token in enumerate(stored.tokens)}

    def feedback(text: str) -> str | None:
        found = corpus.feedback([], [ids[word] for word in text.split()])
        return None if found is None else " ".join(stored.tokens[token] for token in found)

    bad, worse, good = NOUNS[20], NOUNS[29], NOUNS[0]
    assert feedback(f"{good} and person .") is None
    assert feedback(f"{worse} and {good} and {bad} and {worse} .") == (
        f"{worse} and {good} and {bad} and {worse} . remove {worse} and {bad} gives"
    )
    for block in stored.blocks("id"):
        for prompt, answer in zip(block.prompts.tolist(), block.answers.tolist()):
            assert corpus.is_right(prompt, answer) and corpus.feedback(prompt, answer) is None
            assert not corpus.is_right(prompt, answer[:-1]) and not corpus.is_right(prompt, answer[2:])
            as_given = [word for noun in prompt[1:-1] for word in (noun, ids["and"])]
            as_given[-1] = ids["."]
            says = corpus.feedback(prompt, as_given)
            assert corpus.is_right(prompt, as_given) == (says is None) == (as_given == answer)


def test_the_refiner_s_prompts_are_those_that_feedback_writes() -> None:
    """What the corpus says of a draft reads like a trained prompt, so that one model can do both."""
    refiner, writer = (build(WordRemoval(tasks=(task,), rows=40)) for task in ("remove", "wanted"))
    assert refiner.tokens == writer.tokens
    corpus: Any = writer.corpus
    shapes = {block.type: block.prompts.shape[1] for block in refiner.blocks("train")}
    block = next(block for block in writer.blocks("train") if block.prompts.shape[1] == 9)
    nouns = np.array([1, 2, 25, 3, 28, 4])
    draft = [word for noun in nouns for word in (noun, 41)] + [40, 42]
    assert len(corpus.feedback(block.prompts[0].tolist(), draft)) == shapes["k6_r2"]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("tasks", {"tasks": ()}), ("tasks", {"tasks": ("write", "wanted")}), ("tasks", {"tasks": ("delete",)}),
        ("longest", {"longest": 5}), ("unwanted", {"nouns": 12, "unwanted": 12}), ("nouns", {"nouns": 12}),
        ("unseen", {"unseen": 3}),
    ],
)  # fmt: skip
def test_parameters_that_do_not_go_together(key: str, values: dict[str, Any]) -> None:
    with pytest.raises(ParameterError) as caught:
        WordRemoval(**values)
    assert caught.value.key == key
