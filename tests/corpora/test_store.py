"""Corpora on disk: what is cached, what is rebuilt, what is refused, and what others can read."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from pipeline.config.fields import param
from pipeline.corpora.base import Corpus, Examples
from pipeline.corpora.composition import Composition
from pipeline.corpora.export import write_parquet
from pipeline.corpora.group import Group
from pipeline.corpora.published import Published
from pipeline.corpora.store import build
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import facts
from tests.tiny import ROOT

SMALL = Composition(num_entities=40, num_relations=8, out_degree=4, ratio=2, ood_fraction=0.2, seed=3)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GROKLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def examples(prompts: Any, answers: Any, **notes: Any) -> Examples:
    return Examples(np.array(prompts, np.int32), np.array(answers, np.int32), "fact", notes)


@dataclass(frozen=True)
class Tiny(Corpus):
    """A corpus whose splits a test sets; it knows the tokens a, b and c."""

    size: int = param(1, "nothing but a parameter", ge=1)
    words = ("a", "b", "c")
    made: Any = dataclasses.field(default=None, init=False)

    def vocabulary(self) -> list[str]:
        return list(self.words)

    def splits(self) -> Mapping[str, Iterable[Examples]]:
        return self.made


def tiny(**splits: Any) -> Tiny:
    corpus = Tiny()
    object.__setattr__(corpus, "made", splits)
    return corpus


TRAIN = [examples([[0, 1], [0, 2]], [[1], [2]])]
ID = [examples([[1, 1]], [[2]])]


def test_a_second_build_opens_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    first = build(SMALL)
    monkeypatch.setattr(Composition, "splits", lambda corpus: pytest.fail("it was generated again"))
    second = build(dataclasses.replace(SMALL))
    assert second == first and [facts(second, split) for split in second.sizes] == [
        facts(first, s) for s in first.sizes
    ]


def test_blocks_come_back_as_they_were_generated() -> None:
    stored = build(SMALL)
    for split, blocks in SMALL.splits().items():
        for ours, theirs in zip(blocks, stored.blocks(split), strict=True):
            assert theirs.prompts.dtype == theirs.answers.dtype == np.int32 and theirs.type == ours.type
            assert (ours.prompts == theirs.prompts).all() and (ours.answers == theirs.answers).all()
            assert (ours.notes["bridge"] == theirs.notes["bridge"]).all()


def damage_bytes(folder: Path) -> None:
    content = bytearray((folder / "train.arrow").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "train.arrow").write_bytes(content)


def damage_index(folder: Path) -> None:
    index = folder / "corpus.json"
    index.write_text(index.read_text().replace("<e_1>", "<e_0>"))


@pytest.mark.parametrize(
    "damage",
    [
        damage_bytes,
        lambda folder: (folder / "id.arrow").write_bytes((folder / "id.arrow").read_bytes()[:-9]),
        lambda folder: (folder / "ood.arrow").unlink(),
        lambda folder: (folder / "corpus.json").unlink(),
        lambda folder: (folder / "corpus.json").write_text('{"tokens": ['),
        lambda folder: (folder / "corpus.json").write_text("{}"),
        lambda folder: (folder / "corpus.json").write_text("[]"),
        damage_index,
    ],
    ids=["flipped bit", "cut short", "no file", "no index", "torn index", "empty index", "no mapping", "another token"],
)
def test_a_damaged_entry_is_built_again(damage: Any) -> None:
    first = build(SMALL)
    before = {file.name: file.read_bytes() for file in first.folder.iterdir()}
    damage(first.folder)
    second = build(SMALL)
    assert second == first
    assert {file.name: file.read_bytes() for file in second.folder.iterdir()} == before


def test_parameters_and_files_decide_the_entry(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [build(SMALL).folder, build(dataclasses.replace(SMALL, seed=4)).folder]
    with monkeypatch.context() as patch:
        patch.setattr(Composition, "fingerprint", lambda corpus: "other files")
        folders.append(build(SMALL).folder)
    assert len(set(folders)) == len(folders) and {folder.parent for folder in folders} == {cache}


KEYS = """
from pipeline.corpora.comparison import Comparison
from pipeline.corpora.composition import Composition
from pipeline.corpora.published import Published
from pipeline.corpora.store import _content_key
print(_content_key(Composition()), _content_key(Comparison()), _content_key(Published("published")))
"""


def test_the_code_that_generates_decides_the_entry_and_prose_does_not(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    Published.tiny(tmp_path / "published")

    def keys(file: str = "corpora/store.py", old: str = "", new: str = "") -> list[str]:
        """The keys of composition, comparison and published where a piece of code is another."""
        path = tmp_path / "pipeline" / file
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new, 1) if old else content)
        try:
            environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
            done = subprocess.run([sys.executable, "-c", KEYS], cwd=tmp_path, env=environment, capture_output=True)
            assert done.returncode == 0, done.stderr
            return done.stdout.decode().split()
        finally:
            path.write_text(content)

    before = keys()

    def changed(file: str, old: str, new: str) -> list[bool]:
        return [one != other for one, other in zip(before, keys(file, old, new), strict=True)]

    assert changed("corpora/composition.py", '"composition graph"', '"another graph"') == [True, False, True]
    assert changed("corpora/_entities.py", '"attributes iid"', '"attributes"') == [False, True, False]
    assert changed("utils/draws.py", "2.0**-53", "2.0**-52") == [True, True, True]
    assert changed("corpora/store.py", 'dtype="<i4"', 'dtype="<i8"') == [True, True, True]
    assert changed("corpora/export.py", "# {name}", "# The corpus {name}") == [False, False, False]
    assert changed("corpora/export.py", '"README.md"', '"CARD.md"') == [False, False, False]
    assert changed("corpora/composition.py", '"""Two-hop composition', '"""Composition') == [False, False, False]
    assert changed("corpora/composition.py", "# Their own draws, so", "# Own draws, so") == [
        False,
        False,
        False,
    ]
    (tmp_path / "pipeline" / "corpora" / "_new.py").write_text("HELPER = 1\n")
    assert keys() == before


def test_a_refused_corpus_leaves_nothing_behind(cache: Path) -> None:
    with pytest.raises(ParameterError, match=r"^ratio: "):
        build(dataclasses.replace(SMALL, ratio=10))
    assert os.listdir(cache) == []


def test_a_corpus_beyond_the_memory_is_refused(cache: Path) -> None:
    for entities in (10**11, 2**62):
        with pytest.raises(ParameterError, match=r"^composition: is too large for this machine: .*[\d.]+ "):
            build(Composition(num_entities=entities))
    assert os.listdir(cache) == []


def test_processes_may_build_the_same_at_once(cache: Path) -> None:
    script = (
        "import sys; from pipeline.corpora.composition import Composition; from pipeline.corpora.store import build\n"
        "sys.stdin.readline()\n"
        "for seed in range(8): print(build(Composition(num_entities=300, num_relations=30, seed=seed)).content_hash)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in processes:  # all have imported what they need, or will soon
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate()[0].split() for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert outputs[0] == outputs[1] == outputs[2] and len(set(outputs[0])) == 8
    assert len(os.listdir(cache)) == 8 and not list(cache.glob(".draft*"))


def test_arrow_files_open_as_datasets() -> None:
    stored = build(SMALL)
    opened = datasets.Dataset.from_file(str(stored.folder / "train.arrow"))
    assert len(opened) == stored.sizes["train"]
    first, found = opened[0], facts(stored, "train")[0]
    assert tuple(stored.tokens[token] for token in first["prompt"] + first["answer"]) == found.prompt + found.answer
    assert set(opened.unique("type")) == {"id_atomic", "ood_atomic", "train_inferred"}


def test_parquet_is_text_with_the_separator_of_the_corpus(tmp_path: Path) -> None:
    stored = build(Group(group="Z5"))
    write_parquet(stored, tmp_path / "out")
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="id", cache_dir=str(tmp_path / "datasets"))
    expected = [(" ".join(fact.prompt), " ".join(fact.answer), "+") for fact in facts(stored, "id")]
    assert [(row["prompt"], row["answer"], row["type"]) for row in loaded] == expected
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| id | held out | {len(expected)} | `{expected[0][0]}` | `{expected[0][1]}` |" in card


def test_content_hash_covers_tokens_types_shapes_and_notes() -> None:
    plain = [examples([[0, 1], [0, 2]], [[1], [2]], note=np.array([1, 2]))]
    others = [
        [examples([[0, 1], [0, 1]], [[1], [2]], note=np.array([1, 2]))],
        [examples([[0, 1], [0, 2]], [[2], [2]], note=np.array([1, 2]))],
        [examples([[0, 1], [0, 2]], [[1], [2]], note=np.array([1, 3]))],
        [examples([[0, 1], [0, 2]], [[1], [2]], other=np.array([1, 2]))],
        [dataclasses.replace(plain[0], type="another")],
        [examples([[0], [0]], [[1, 1], [2, 2]], note=np.array([1, 2]))],
    ]
    held_out = [examples([[2, 2]], [[0]])]
    hashes = set()
    for train in [plain, *others]:
        for file in build(tiny(train=train, id=held_out)).folder.iterdir():
            file.unlink()  # Tiny's parameters do not say what it holds
        hashes.add(build(tiny(train=train, id=held_out)).content_hash)
        for file in build(tiny(train=train, id=held_out)).folder.iterdir():
            file.unlink()
    assert len(hashes) == 7


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": TRAIN, "id": [*ID, examples([[0, 2]], [[2]])]}, "1 of 2 prompts of id stand in train; .*: none"),
        ({"train": TRAIN, "id": ID, "seen": [*TRAIN, *ID]}, "2 of 3 prompts of seen stand in train; .*: all"),
        (
            {"train": TRAIN, "id": [examples([[1, 3]], [[1]])]},
            "id: prompts hold token ids 1 to 3; the vocabulary has 3",
        ),
        ({"train": TRAIN, "id": [examples([[1, 1]], [[-1]])]}, "id: answers hold token ids -1 to -1; the"),
        ({"train": TRAIN, "id": [examples([[1, 1]], [[]])]}, r"answers have shape \(1, 0\), not \(1, 1 or more\)"),
        ({"train": TRAIN, "id": [examples([[]], [[1]])]}, r"prompts have shape \(1, 0\)"),
        ({"train": TRAIN, "id": [examples([[1, 1]], [[1], [2]])]}, r"answers have shape \(2, 1\), not \(1, 1 "),
        ({"train": TRAIN, "id": []}, "split id is empty"),
        ({"train": TRAIN, "id": [examples(np.zeros((0, 2)), np.zeros((0, 1)))]}, "split id is empty"),
        ({"id": ID}, "there is no split train"),
        ({"train": TRAIN, "../id": ID}, "a split is called '../id'"),
    ],
)
def test_broken_promises_are_caught(splits: dict[str, Any], message: str, cache: Path) -> None:
    with pytest.raises(ValueError, match=message) as error:
        build(tiny(**splits))
    assert "test_store" in str(error.value) and "\n" not in str(error.value)
    assert os.listdir(cache) == []


def test_a_token_that_stands_twice_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (("a", "b", "a"), ("a", "<pad>"), ("a", "<reserved_0>")):
        monkeypatch.setattr(Tiny, "words", words)
        with pytest.raises(ValueError, match="a token stands twice"):
            build(tiny(train=TRAIN, id=ID))


def test_blocks_of_a_split_may_differ_in_shape_and_be_empty() -> None:
    empty = examples(np.zeros((0, 2)), np.zeros((0, 1)))
    stored = build(tiny(train=[*TRAIN, empty, examples([[2]], [[1, 0]])], id=ID))
    assert [(fact.prompt, fact.answer) for fact in facts(stored, "train")] == [
        (("a", "b"), ("b",)), (("a", "c"), ("c",)), (("c",), ("b", "a")),
    ]  # fmt: skip
    assert stored.sizes == {"train": 3, "id": 1}


@pytest.mark.parametrize("words", [1, 6, 7, 8, 2206, 70_000])
def test_vocabularies_are_padded_to_a_multiple_of_eight(words: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tiny, "words", tuple(f"<{i}>" for i in range(words)))
    stored = build(tiny(train=[examples([[0]], [[words - 1]])], id=[examples([[0, 0]], [[words - 1]])]))
    spare = len(stored.tokens) - words - 1
    assert len(stored.tokens) % 8 == 0 and 8 <= spare < 16 and stored.tokens[words] == "<pad>"
    assert facts(stored, "id")[0].answer == (f"<{words - 1}>",)
