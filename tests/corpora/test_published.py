"""The file format of Wang et al.: their files read as they write them, ours read back as written, bad ones named."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpora.base import Corpus
from pipeline.corpora.comparison import Comparison
from pipeline.corpora.complex_reasoning import ComplexReasoning
from pipeline.corpora.composition import Composition
from pipeline.corpora.group import Group
from pipeline.corpora.published import FILES, Published, write_published
from pipeline.corpora.store import build
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import facts

VOCAB = [*(f"<e_{i}>" for i in range(4)), "<r_0>", "<r_1>", "<mask>", "<sep>", "<a>", "</a>", "<q>", "</q>"]


def item(text: str, answer: str, kind: str | None = None) -> dict[str, str]:
    """As the notebooks write it: `h r t` becomes `<h><r><t></a>`."""
    prompt = "".join(f"<{word}>" for word in text.split())
    target = prompt + "".join(f"<{word}>" for word in answer.split())
    return {"input_text": prompt, "target_text": target} | ({"type": kind} if kind else {})


# (e0, r0) -> e1, (e1, r1) -> e2 and so on; composition's train.json has no types, and facts of two lengths.
TRAIN = [
    item("e_0 r_0", "e_1 /a"),
    item("e_1 r_1", "e_2 /a"),
    item("e_0 r_0 r_1", "e_2 /a"),
    item("e_2 r_0", "e_3 /a"),
    item("e_2 r_1", "e_0 /a"),
]
OOD = [item("e_3 r_1 r_0", "e_1 /a", "test_inferred_ood")]
TEST = [
    item("e_1 r_1", "e_2 /a", "id_atomic"),
    item("e_2 r_1", "e_0 /a", "ood_atomic"),
    item("e_0 r_0 r_1", "e_2 /a", "train_inferred"),
    item("e_1 r_1 r_0", "e_3 /a", "test_inferred_iid"),
    *OOD,
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in zip(FILES, (TRAIN, OOD, TEST, VOCAB)):
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def test_published_composition_is_read_as_it_is(folder: Path) -> None:
    corpus = Published(path=str(folder))
    stored = build(corpus)
    assert stored.sizes == {"train": 5, "id": 1, "ood": 1, "id_atomic": 1, "ood_atomic": 1, "train_inferred": 1}
    assert stored.held_out == corpus.held_out == ("id", "ood")
    assert corpus.vocabulary() == VOCAB and stored.tokens[: len(VOCAB)] == VOCAB
    for split, items in {"train": TRAIN, "id": TEST[3:4], "ood": OOD, "ood_atomic": TEST[1:2]}.items():
        found = [("".join(fact.prompt), "".join(fact.prompt + fact.answer)) for fact in facts(stored, split)]
        assert sorted(found) == sorted((one["input_text"], one["target_text"]) for one in items)
    assert {fact.type for fact in facts(stored, "train")} == {"train"}
    assert facts(stored, "ood")[0].type == "test_inferred_ood"


def test_a_split_is_held_out_when_it_is_not_trained(folder: Path) -> None:
    (folder / "train.json").write_text(json.dumps(TRAIN[:4]))  # as in complex reasoning: OOD atomic facts are not told
    assert Published(path=str(folder)).held_out == ("id", "ood", "ood_atomic")


def test_a_split_of_which_a_part_is_trained_is_refused(folder: Path) -> None:
    (folder / "test.json").write_text(json.dumps([*TEST, item("e_0 r_0 r_1", "e_2 /a", "test_inferred_iid")]))
    with pytest.raises(ParameterError, match="1 of 2 prompts of id stand in train"):
        build(Published(path=str(folder)))


@pytest.mark.parametrize(
    "corpus",
    [
        Composition(num_entities=40, num_relations=8, out_degree=4, ratio=2, ood_fraction=0.2, seed=3),
        Composition(num_entities=36, num_relations=8, out_degree=4, ratio=2, ood_fraction=0.2, token_multiplicity=6),
        Composition(num_entities=40, num_relations=8, out_degree=4, ratio=0, ood_fraction=0.2, identity=1),
        Comparison(num_entities=20, num_attributes=3, ood_fraction=0.2, ratio=2.0),
        ComplexReasoning(num_entities=40, num_attributes=2, ood_fraction=0.2, train_fraction=0.1),
    ],
    ids=["composition", "two-token composition", "identity rows", "comparison", "complex_reasoning"],
)
def test_what_is_written_reads_back_the_same(corpus: Corpus, tmp_path: Path) -> None:
    stored = build(corpus)
    write_published(stored, tmp_path / "published")
    back = build(Published(path=str(tmp_path / "published")))
    assert (back.sizes, set(back.held_out)) == (stored.sizes, set(stored.held_out))
    assert back.corpus.vocabulary() == corpus.vocabulary()
    for split in stored.sizes:
        ours, theirs = facts(stored, split), facts(back, split)
        assert [fact[:2] for fact in ours] == [fact[:2] for fact in theirs]
        # The authors' train.json of composition says no types.
        is_silent = split == "train" and isinstance(corpus, Composition)
        assert [fact.type for fact in theirs] == ["train" if is_silent else fact.type for fact in ours]


# As the notebooks of Wang et al. write them: the types of test.json, and those of train.json where it has any.
AUTHORS = {
    "composition": (["id_atomic", "ood_atomic", "train_inferred", "test_inferred_iid", "test_inferred_ood"], None),
    "comparison": (
        ["test_inferred_ood", "id_atomic", "ood_atomic", "test_inferred_iid", "train_inferred"],
        ["id_atomic", "ood_atomic", "train_inferred"],
    ),
    "complex_reasoning": (
        [
            *("test_inferred_ood", "id_atomic", "test_inferred_iid", "ood_atomic"),
            *("train_inferred_topleft", "train_inferred_cross", "test_hard"),
        ],
        ["id_atomic", "train_inferred_topleft", "train_inferred_cross"],
    ),
}


@pytest.mark.parametrize("name", AUTHORS)
def test_files_are_those_of_the_authors(name: str, tmp_path: Path) -> None:
    corpus = {
        "composition": Composition(num_entities=40, num_relations=8, out_degree=4, ratio=2, ood_fraction=0.2, seed=3),
        "comparison": Comparison(num_entities=20, num_attributes=3, ood_fraction=0.2, ratio=2.0),
        "complex_reasoning": ComplexReasoning(num_entities=60, num_attributes=4),
    }[name]
    stored = build(corpus)
    write_published(stored, tmp_path / "ours")
    train, valid, test, vocab = (json.loads((tmp_path / "ours" / file).read_text()) for file in FILES)
    assert sorted(file.name for file in (tmp_path / "ours").iterdir()) == sorted(FILES)
    probes, kinds = AUTHORS[name]
    keys = ["input_text", "target_text", *(["type"] if kinds else [])]
    assert all(list(one) == keys for one in [*train, *valid])
    assert all(list(one) == ["input_text", "target_text", "type"] for one in test)
    assert [kind for kind, _ in itertools.groupby(one["type"] for one in test)] == probes
    assert [kind for kind, _ in itertools.groupby(one["type"] for one in train if kinds)] == (kinds or [])
    assert valid == [{key: one[key] for key in keys} for one in test if one["type"] == "test_inferred_ood"]
    assert len(train) == stored.sizes["train"] and len(test) == sum(stored.sizes.values()) - len(train)
    assert vocab == corpus.vocabulary()
    fact = facts(stored, "train")[0]
    assert train[0]["input_text"] == "".join(fact.prompt)
    assert train[0]["target_text"] == "".join(fact.prompt + fact.answer)
    # Files that were read are written as they were.
    write_published(build(Published(path=str(tmp_path / "ours"))), tmp_path / "again")
    for file in FILES:
        assert json.loads((tmp_path / "again" / file).read_text()) == json.loads((tmp_path / "ours" / file).read_text())


def test_a_change_of_a_file_is_noticed(folder: Path) -> None:
    before = build(Published(path=str(folder)))
    (folder / "train.json").write_text(json.dumps([*TRAIN, item("e_3 r_0", "e_0 /a")]))
    after = build(Published(path=str(folder)))
    assert after.sizes["train"] == before.sizes["train"] + 1 and after.content_hash != before.content_hash


def test_tokens_in_another_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"published: tokens of group are not written <\.\.\.>"):
        write_published(build(Group(group="Z5")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def put(name: str, content: Any) -> Callable[[Path], Any]:
    """Replaces a file, by a text or by a value as JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    return lambda folder: (folder / name).write_text(text)


def make_folder(folder: Path) -> None:
    (folder / "test.json").unlink()
    (folder / "test.json").mkdir()


SURROGATE = '[{"input_text": "<\\ud800>", "target_text": "<\\ud800></a>"}]'
FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, "holds no train.json"),
    "no file": (lambda folder: (folder / "vocab.json").unlink(), "holds no vocab.json"),
    "a folder for a file": (make_folder, "holds no test.json"),
    "not JSON": (put("train.json", "[{"), "/train.json: cannot be read as JSON"),
    "empty file": (put("train.json", ""), "/train.json: cannot be read as JSON"),
    "binary": (lambda folder: (folder / "test.json").write_bytes(b"\x80\0"), "/test.json: cannot be read as JSON"),
    "nested too deep": (put("train.json", "[" * 100_000), "/train.json: cannot be read as JSON"),
    "no list": (put("train.json", {"a": 1}), "/train.json: is not a list"),
    "empty list": (put("test.json", []), "/test.json: is empty"),
    "no vocabulary": (put("vocab.json", []), "/vocab.json: is empty"),
    "no item": (put("train.json", [TRAIN[0], 3]), "/train.json[1]: 3 is not an item"),
    "no input": (put("train.json", [{"target_text": "<e_0>"}]), "/train.json[0]: input_text is missing"),
    "no target": (put("train.json", [{"input_text": "<e_0>"}]), "/train.json[0]: target_text is missing"),
    "no text": (put("train.json", [{"input_text": 3, "target_text": "<e_0>"}]), "/train.json[0]: input_text is"),
    "no type": (put("test.json", [*TEST, TRAIN[0]]), "/test.json[5]: type is missing"),
    "type of no split": (put("test.json", [item("e_0", "/a", "../x")]), "/test.json[0]: type '../x' is not"),
    "type train": (put("test.json", [item("e_0", "/a", "train")]), "/test.json[0]: type 'train' is not"),
    "another start": (
        put("train.json", [*TRAIN, {"input_text": "<e_0>", "target_text": "<e_1></a>"}]),
        "/train.json[5]: target_text does not start with input_text, '<e_0>'",
    ),
    "no answer": (put("train.json", [item("e_0 r_0", "")]), "/train.json[0]: '<e_0><r_0>' is not a prompt and an"),
    "no prompt": (put("train.json", [item("", "e_0")]), "/train.json[0]: '<e_0>' is not a prompt and an answer"),
    "a split token": (put("train.json", [{"input_text": "<e", "target_text": "<e_0></a>"}]), "/train.json[0]: '<e_0>"),
    "a space": (put("train.json", [{"input_text": "<e_0> ", "target_text": "<e_0> </a>"}]), "/train.json[0]: '<e_0> "),
    "half a surrogate": (put("train.json", SURROGATE), "/train.json[0]: '<\\ud800></a>' is not a prompt"),
    "unknown token": (
        put("train.json", [*TRAIN, item("e_0 r_7", "e_1 /a")]),
        "/train.json[5]: unknown token <r_7>; it is not in vocab.json",
    ),
    "unknown answer": (put("test.json", [*TEST, item("e_0", "e_9", "x")]), "/test.json[5]: unknown token <e_9>"),
    "token of no form": (put("vocab.json", ["<a>", "b"]), "/vocab.json[1]: 'b' is not a token"),
    "token of no text": (put("vocab.json", ["<a>", 5]), "/vocab.json[1]: 5 is not a token"),
    "token twice": (put("vocab.json", ["<a>", "<a>"]), "/vocab.json[1]: <a> stands there twice"),
    "our own token": (put("vocab.json", [*VOCAB, "<pad>"]), "/vocab.json[12]: <pad> is a token that"),
    "reserved token": (put("vocab.json", [*VOCAB, "<reserved_0>"]), "/vocab.json[12]: <reserved_0> is a token"),
    "stray validation": (put("valid.json", [item("e_0", "/a")]), "/valid.json[0]: is not among the probes of test"),
    "broken validation": (put("valid.json", {}), "/valid.json: is not a list"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_malformed_files_are_named_in_one_line(fault: str, folder: Path) -> None:
    spoil, message = FAULTS[fault]
    spoil(folder)
    with pytest.raises(ParameterError) as error:
        build(Published(path=str(folder)))
    assert message in str(error.value)
    assert error.value.key == "path" and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_folder_must_be_named() -> None:
    with pytest.raises(ParameterError, match=r"path: '' holds no train\.json; name a folder"):
        Published()
