"""Pairs of corpora and of files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.circuits.base import Pairs
from pipeline.corpora.comparison import Comparison
from pipeline.corpora.complex_reasoning import ComplexReasoning
from pipeline.corpora.composition import Composition
from pipeline.corpora.group import Group
from pipeline.pairs import CorpusPairs, FilePairs, translate
from pipeline.parameters import ParameterError
from pipeline.reading import RecipeError
from pipeline.store import build
from pipeline.tokenizer import build_tokenizer

SMALL = {"num_entities": 20, "probe_cap": 200}
CORPORA: dict[str, tuple[Any, str, list[str]]] = {
    "composition": (
        Composition(num_entities=30, num_relations=6, out_degree=4, ratio=3), "train_inferred", ["h", "r1", "r2"],
    ),
    "two tokens": (
        Composition(num_entities=36, num_relations=6, out_degree=4, ratio=3, token_multiplicity=6), "train_inferred",
        ["first", "last", "r1", "r2"],
    ),
    "comparison": (Comparison(**SMALL, num_attributes=3, num_values=5), "id", ["attr", "<q>", "e1", "<mask>", "e2"]),
    "complex": (
        ComplexReasoning(**SMALL, num_attributes=3, num_values=5), "id",
        ["attr", "<q>", "e1", "<mask>", "e2", "</q>", "answer"],
    ),
    "group": (Group(group="Z11", template="a b = c"), "id", ["a", "b", "="]),
    "permutations": (Group(group="S4", operation="*"), "train", ["a", "op", "b", "="]),
}  # fmt: skip


@pytest.mark.parametrize("name", CORPORA)
@pytest.mark.parametrize("every_position", [False, True])
def test_pairs_differ_in_one_token_and_in_the_answer(name: str, every_position: bool) -> None:
    corpus, split, places = CORPORA[name]
    source = CorpusPairs(build(corpus))
    pairs = source.pairs(split, 50, 0, every_position)
    assert list(pairs.places) == places and pairs.clean.shape == (len(pairs), len(places))
    assert ((pairs.clean != pairs.corrupted).sum(axis=1) == 1).all()
    assert (pairs.answers[:, 0] != pairs.corrupted_answers[:, 0]).all()
    each = np.bincount(pairs.where)
    assert (each.max() <= 50 and (each > 0).sum() >= 2) if every_position else 0 < len(pairs) <= 50
    again, other = source.pairs(split, 50, 0, every_position), source.pairs(split, 50, 1, every_position)
    assert (again.clean == pairs.clean).all() and (again.corrupted == pairs.corrupted).all()
    assert other.clean.shape != pairs.clean.shape or (other.clean != pairs.clean).any()


def test_what_corrupted_prompts_say_is_true() -> None:
    corpus = Group(group="Z11", template="a b = c", train_fraction=0.5)
    pairs = CorpusPairs(build(corpus)).pairs("id", 30, 0)
    for prompts, answers in ((pairs.clean, pairs.answers), (pairs.corrupted, pairs.corrupted_answers)):
        assert ((prompts[:, 0] + prompts[:, 1]) % 11 == answers[:, 0]).all()


def test_the_whole_table_of_a_group_is_there() -> None:
    stored = build(Group(group="Z11", template="a b = c"))
    prompts, answers, trained, n = CorpusPairs(stored).table()
    assert len(prompts) == 121 and n == 11 and trained.sum() == stored.sizes["train"]
    assert ((prompts[:, 0] + prompts[:, 1]) % 11 == answers[:, 0]).all()
    for other in (Group(group="Z11", operation="*"), Group(group="S4", operation="*"), CORPORA["composition"][0]):
        with pytest.raises(ParameterError, match="corpus: is not the group Z_n"):
            CorpusPairs(build(other)).table()


def test_what_a_corpus_cannot_give_is_refused() -> None:
    source = CorpusPairs(build(CORPORA["composition"][0]))
    with pytest.raises(ParameterError, match="split: there is no split 'test'; allowed: train, id"):
        source.pairs("test", 5, 0)


GOOD = {"clean": "1 2 =", "corrupted": "1 3 =", "answer": "3", "corrupted_answer": "4"}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer([*map(str, range(10)), "+", "=", "<pad>"], " ")


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_a_file_s_pairs_are_its_rows(tmp_path: Path, tokenizer: Any) -> None:
    longer = {"clean": "1 + 2 =", "corrupted": "2 + 2 =", "answer": "3 +", "corrupted_answer": "4"}
    rows = [{**GOOD, "step": "2"}, {**longer, "step": "7"}, {**GOOD, "clean": [1, 4, 11], "step": [3]}]
    pairs = FilePairs(written(tmp_path / "a.jsonl", *rows, ""), tokenizer, pad=12).pairs("any", 10, 0)
    assert pairs.clean.tolist() == [[1, 2, 11, 12], [1, 10, 2, 11], [1, 4, 11, 12]]
    assert pairs.corrupted.tolist() == [[1, 3, 11, 12], [2, 10, 2, 11], [1, 3, 11, 12]]
    assert pairs.lengths.tolist() == [3, 4, 3] and pairs.answers.tolist() == [[3], [3], [3]]
    assert pairs.notes["step"].tolist() == [2, 7, 3] and pairs.where.tolist() == [1, 0, 1]
    text = "clean,corrupted,answer,corrupted_answer\n1 2 =,1 3 =,3,4\n"
    (tmp_path / "a.csv").write_text(text)
    assert FilePairs(tmp_path / "a.csv", tokenizer).pairs("any", 10, 0).clean.tolist() == [[1, 2, 11]]
    few = FilePairs(written(tmp_path / "b.jsonl", *[GOOD] * 20), tokenizer).pairs("any", 5, 0)
    assert len(few) == 5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD, "corrupted": "1 3 + ="}, "line 2: clean has 3 tokens and corrupted 4; they have to be equally long"),
        ({**GOOD, "corrupted": "1 2 ="}, "line 2: clean and corrupted are the same"),
        ({**GOOD, "corrupted_answer": "3 +"}, "line 2: answer and corrupted_answer begin with the same token"),
        ({**GOOD, "answer": ""}, "line 2: has no answer; every row has clean, corrupted"),
        ({"clean": "1"}, "line 2: has no corrupted"),
        ({**GOOD, "answer": 3}, "line 2: answer is neither text nor a list of token ids"),
        ({**GOOD, "clean": [1, -2]}, "line 2: clean is neither text nor a list of token ids"),
        ({**GOOD, "clean": "1 x ="}, "line 2: clean '1 x =' has a token that the tokenizer does not know"),
        ("{", "line 2: is not a JSON object"),
        ("[1]", "line 2: is not a JSON object"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, tokenizer: Any, row: Any, message: str) -> None:
    source = FilePairs(written(tmp_path / "bad.jsonl", GOOD, row), tokenizer)
    with pytest.raises(RecipeError, match=message):
        source.pairs("any", 5, 0)


def test_a_file_without_pairs_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    for path, message in {written(tmp_path / "no.jsonl"): "holds no pair", tmp_path / "lost": "cannot be read"}.items():
        with pytest.raises(RecipeError, match=message):
            FilePairs(path, tokenizer).pairs("any", 5, 0)


def test_a_corpus_that_a_model_does_not_know_is_named() -> None:
    stored = build(Group(group="Z11", template="a b = c"))
    ids = translate(stored, build_tokenizer(["=", *map(str, range(20)), "<pad>"], " "))
    assert ids[: len(stored.corpus.vocabulary())].tolist() == [*range(1, 12), 0]
    with pytest.raises(RecipeError, match="--model: does not know 10, a token of this corpus"):
        translate(stored, build_tokenizer(["=", *map(str, range(10)), "<pad>"], " "))


def test_parts_that_do_not_fit_are_refused() -> None:
    ids = np.zeros((3, 2), np.int32)
    with pytest.raises(ValueError, match="answers does not fit 3 prompts of 2 tokens"):
        Pairs(ids, ids, ids[:2], ids)
    with pytest.raises(ValueError, match="corrupted does not fit"):
        Pairs(ids, ids[:, :1], ids, ids)
