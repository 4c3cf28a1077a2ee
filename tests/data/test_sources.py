"""Text is read from files and folders as `datasets` reads them, and what is no text is one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.data.templates import encode_rows
from pipeline.data.text import Texts
from pipeline.data.tokenizer import UnknownWordsError, encode
from pipeline.data.words import without_template
from pipeline.utils.errors import ParameterError
from tests.bases import END, recipe_of, sentences
from tests.tiny import run_here, write_recipe


def read(path: Path, **facts: str) -> list[str]:
    return [text for _, text in Texts(str(path), **facts).documents()]


def test_a_word_that_a_tokenizer_has_nothing_for_is_one_line(tmp_path: Path) -> None:
    """Not even a token for unknown words, at which the library raises a bare Exception; or half a character."""
    words = Tokenizer(models.WordLevel({"the": 0, "cat": 1}))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    assert encode(tokenizer, ["the cat", "cat"]) == [[0, 1], [1]] and encode(tokenizer, []) == []
    for text, word in {"the dog": "'dog'", "the \ud800": r"'\ud800'"}.items():
        with pytest.raises(UnknownWordsError) as caught:
            encode(tokenizer, ["the cat", text])
        assert caught.value.words == [word]
    path = tmp_path / "text.txt"
    path.write_text("the cat\nthe dog\n")
    with pytest.raises(ParameterError, match=r"source.*no tokens for: 'dog'"):
        list(Texts(str(path)).tokens(tokenizer))
    with pytest.raises(ParameterError, match=r"model.templates.*'the dog' has words that the model has no tokens for"):
        encode_rows(tokenizer, ["the"], [" dog"])
    without_template(tokenizer)


@pytest.mark.parametrize("before", [None, pre_tokenizers.Metaspace()])
def test_characters_that_a_tokenizer_leaves_out_are_one_line(before: Any, tmp_path: Path) -> None:
    pairs = Tokenizer(models.BPE({"a": 0, "b": 1, "\u2581": 2}, []))
    if before:
        pairs.pre_tokenizer = before
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pairs)
    assert tokenizer("abc")["input_ids"] == tokenizer("ab")["input_ids"]  # in silence
    assert encode(tokenizer, ["ab", "aab"]) == [tokenizer(text)["input_ids"] for text in ("ab", "aab")]
    path = tmp_path / "text.txt"
    path.write_text("ab\nabc\n")
    with pytest.raises(ParameterError, match=r"no tokens for: abc$"):
        list(Texts(str(path)).tokens(tokenizer))


def write(folder: Path, **files: str | bytes) -> Path:
    """A folder with files, named by their paths with __ for a dot."""
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_sources_are_files_of_one_kind_in_their_order(tmp_path: Path) -> None:
    lines = sentences(3).splitlines()
    for number in (1, 0):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps({"text": lines[number]}) + "\n" + '{"text": ""}\n')
    assert list(Texts(str(tmp_path)).documents()) == [(0, lines[0]), (2, lines[1])]
    assert list(Texts(str(tmp_path)).documents(1)) == [(2, lines[1])]
    (tmp_path / "more.txt").write_text(END)
    with pytest.raises(ParameterError, match=r"has no files of one kind of \.txt"):
        next(Texts(str(tmp_path)).documents())


def test_a_folder_has_the_splits_that_datasets_finds_in_it(tmp_path: Path) -> None:
    folder = write(tmp_path, train__txt="trained\n", test__txt="held out\n", README__md="# A card\n")
    write(folder, __hidden__txt="hidden", __git__txt="hidden", dataset_info__json="{}")
    for split in ("train", "test"):
        theirs = datasets.load_dataset(str(folder), split=split, streaming=True)
        assert read(folder, split=split) == [row["text"] for row in theirs]
    assert read(folder) == ["trained"] and read(folder, split="test") == ["held out"]
    with pytest.raises(ParameterError, match=r"split: .*Bad split: validation. Available splits: .*train"):
        read(folder, split="validation")
    with pytest.raises(ParameterError, match=r"config: .* has no configuration big"):
        read(folder, config="big")


def test_a_card_s_configurations_are_those_of_datasets(tmp_path: Path) -> None:
    card = "---\nconfigs:\n- config_name: one\n  data_files: x/*.txt\n- config_name: two\n  data_files: y/*.txt\n---\n"
    folder = write(tmp_path, README__md=card, **{"x/a__txt": "first", "y/a__txt": "second"})
    assert read(folder, config="two") == ["second"]
    with pytest.raises(ParameterError, match=r"source: .*Config name is missing. .*one.*two"):
        read(folder)


def test_what_was_saved_to_disk_is_loaded(tmp_path: Path) -> None:
    parts = {split: datasets.Dataset.from_dict({"text": [split]}) for split in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "all"))
    parts["test"].save_to_disk(str(tmp_path / "one"))
    assert read(tmp_path / "all", split="test") == ["test"] and read(tmp_path / "one") == ["test"]
    with pytest.raises(ParameterError, match=r"split: .* has no valid; allowed: train, test"):
        read(tmp_path / "all", split="valid")
    with pytest.raises(ParameterError, match=r"split: .* has no splits"):
        read(tmp_path / "one", split="test")


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", b"\xef\xbb\xbfone\ntwo", ["one", "two"]),
        ("a.jsonl", b'\xef\xbb\xbf{"text": "one"}\n', ["one"]),
        ("a.csv", b'\xef\xbb\xbftext,n\n"one\ntwo",1\n', ["one\ntwo"]),
        ("a.tsv", b"text\tn\none, two\t1\n", ["one, two"]),
        ("a.JSON", b'[{"text": "one"}, {"text": null}, {"text": "two"}]', ["one", "two"]),
        ("A.TXT", b"one", ["one"]),
        ("a.txt.gz", gzip.compress(b"one", mtime=0), ["one"]),
        ("A.JSONL.GZ", gzip.compress(b'{"text": "one"}', mtime=0), ["one"]),
        ("a.ndjson", b'{"text": "one"}', ["one"]),
        ("a[1]*.txt", b"one", ["one"]),
        ("a.md", b"one", ["one"]),
    ],
)
def test_a_file_is_the_same_alone_and_in_a_folder(name: str, content: bytes, texts: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "some [text]"
    folder.mkdir()
    (folder / name).write_bytes(content)
    assert read(folder / name) == texts and read(folder) == texts
    with pytest.raises(ParameterError, match=r"split: .* has no splits"):
        read(folder / name, split="test")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text\n1\n2\n", "column: text of .* is no text, but int: 1"),
        ("a.jsonl", '{"text": ["a", "b"]}', r"column: text of .* is no text, but list: \['a', 'b'\]"),
        ("a.txt", b"caf\xe9 \xff", r"source: .*cannot be read \(UnicodeDecodeError"),
        ("README.md", "# only a card", "source: .* has no files of one kind"),
    ],
)
def test_what_is_no_text_is_one_line(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ParameterError, match=message) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_held_out_text_of_a_folder_is_not_trained(
    bases: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "texts", train__txt=sentences(50), test__txt="the cat sees the cat .\n" * 40)
    more = f"\nreplay: {{source: {folder}, split: dev}}\n"
    assert run_here(write_recipe(tmp_path, recipe_of(bases, "gpt2", more=more))) == 2
    error = capfd.readouterr().err
    assert "replay.split: " in error and "train" in error and error.count("\n") == 1, error
