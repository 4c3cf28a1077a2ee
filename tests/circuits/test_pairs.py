"""Pairs of corpora and of files."""

from __future__ import annotations

import csv
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from pipeline.circuits._file_pairs import COLUMNS, FilePairs
from pipeline.circuits._pairs import CorpusPairs, translate
from pipeline.circuits.base import Pairs
from pipeline.circuits.logit_lens import LogitLens
from pipeline.circuits.tables import fingerprint, write_table
from pipeline.corpora.comparison import Comparison
from pipeline.corpora.complex_reasoning import ComplexReasoning
from pipeline.corpora.composition import Composition
from pipeline.corpora.group import Group
from pipeline.corpora.store import build
from pipeline.data.tokenizer import build_tokenizer
from pipeline.models.gpt2 import Gpt2
from pipeline.utils.errors import ParameterError, RecipeError

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


FIRST, SECOND = ["1 2 =", "1 3 =", "3", "4"], ["2 2 =", "2 3 =", "4", "5"]


def table(separator: str, *rows: list[str], header: str = ",".join(COLUMNS), end: str = "\n") -> str:
    return end.join([header.replace(",", separator), *(separator.join(row) for row in rows)]) + end


ARRAY = json.dumps([dict(zip(COLUMNS, FIRST)), dict(zip(COLUMNS, SECOND))], indent=2)
LINES = "".join(json.dumps(dict(zip(COLUMNS, row))) + "\n" for row in (FIRST, SECOND))
SAME: dict[str, tuple[str, bytes]] = {
    "csv": ("a.csv", table(",", FIRST, SECOND).encode()),
    "upper case": ("a.CSV", table(",", FIRST, SECOND).encode()),
    "tsv": ("a.tsv", table("\t", FIRST, SECOND).encode()),
    "old Mac's line ends": ("a.csv", table(",", FIRST, SECOND, end="\r").encode()),
    "byte order mark": ("a.csv", b"\xef\xbb\xbf" + table(",", FIRST, SECOND, end="\r\n").encode()),
    "byte order mark before JSON": ("a.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
    "empty rows": ("a.csv", table(",", [""], FIRST, ["", "", "", ""], [" ", "", "", ""], SECOND, []).encode()),
    "an id": ("a.csv", table(",", ["7", *FIRST], ["9", *SECOND], header="id," + ",".join(COLUMNS)).encode()),
    "quoted": ("a.csv", table(",", [f'"{cell}"' for cell in FIRST], SECOND).encode()),
    "spaces in the header": ("a.csv", table(",", FIRST, SECOND, header=", ".join(COLUMNS)).encode()),
    "array": ("a.json", ARRAY.encode()),
    "array called lines": ("a.jsonl", b"\n " + ARRAY.encode()),
    "lines called JSON": ("a.json", LINES.encode()),
    "lines with white space": ("a.jsonl", f"\n \t\n{LINES}\n{{}}\n".replace("\n", "\r\n").encode()),
    "gzipped": ("a.csv.gz", gzip.compress(table(",", FIRST, SECOND).encode())),
    "gzipped lines": ("a.jsonl.GZ", gzip.compress(LINES.encode())),
}


@pytest.mark.parametrize("name", SAME)
def test_every_format_gives_the_same_pairs(tmp_path: Path, tokenizer: Any, name: str) -> None:
    file, content = SAME[name]
    (tmp_path / file).write_bytes(content)
    pairs = FilePairs(tmp_path / file, tokenizer).pairs("any", 10, 0)
    assert pairs.clean.tolist() == [[1, 2, 11], [2, 2, 11]] and pairs.corrupted.tolist() == [[1, 3, 11], [2, 3, 11]]
    assert pairs.answers.tolist() == [[3], [4]] and pairs.corrupted_answers.tolist() == [[4], [5]]
    assert pairs.notes == {} and pairs.metadata == ({"id": ["7", "9"]} if name == "an id" else {})


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "json"])
def test_line_breaks_and_other_signs_inside_text_stay(tmp_path: Path, ending: str) -> None:
    """As csv and json read them: what str.splitlines takes for the end of a line is part of a cell."""
    signs = ["\n", "\r\n", "\f", "\v", "\x1c", "\x85", "\u2028", "\u2029", '"', ",", "\t", "  "]
    rows = [dict(zip(COLUMNS, (f"a{sign}b", f"a{sign}c", f"x{sign}", f"y{sign}")), note=sign) for sign in signs]
    path = tmp_path / f"a.{ending}"
    with open(path, "w", encoding="utf-8", newline="") as file:
        if ending == "json":
            json.dump(rows, file, ensure_ascii=False)
        elif ending == "jsonl":
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        else:
            writer = csv.DictWriter(file, rows[0], delimiter={"csv": ",", "tsv": "\t"}[ending])
            writer.writeheader()
            writer.writerows(rows)
    letters = "abcxy" + "".join(dict.fromkeys("".join(signs)))
    made = Tokenizer(WordLevel({letter: i for i, letter in enumerate(letters)}))
    made.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    pairs = FilePairs(path, PreTrainedTokenizerFast(tokenizer_object=made)).pairs("any", 100, 0)
    texts = [[letters[i] for i in row[:length]] for row, length in zip(pairs.clean, pairs.lengths)]
    assert ["".join(text) for text in texts] == [row["clean"] for row in rows]
    assert pairs.metadata == {"note": signs}


def test_further_columns_stay_beside_the_table(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        {**GOOD, "id": "1", "weight": 0.5, "about": {"by": ["hand"]}, "step": "2"},
        {**GOOD, "step": "7", "new": "é"},
    ]
    path = written(tmp_path / "a.jsonl", *rows)
    pairs = FilePairs(path, tokenizer, pad=12).pairs("any", 10, 0)
    expected = {
        "id": ["1", None], "weight": [0.5, None], "about": [{"by": ["hand"]}, None], "step": ["2", "7"],
        "new": [None, "é"],
    }  # fmt: skip
    assert pairs.metadata == expected and {name: note.tolist() for name, note in pairs.notes.items()} == {
        "step": [2, 7]
    }
    assert pairs.take([1]).metadata["step"] == ["7"] and pairs.renamed(range(13)).metadata == expected
    table = LogitLens().run(Gpt2(n_layer=1, n_embd=8, n_head=2, n_positions=4).build(16), pairs)
    write_table(tmp_path, "a.parquet", table, {})
    assert json.loads(pq.read_schema(tmp_path / "a.parquet").metadata[b"groklab pairs"]) == expected
    other = FilePairs(written(tmp_path / "b.jsonl", rows[0], {**rows[1], "new": "e"}), tokenizer, pad=12)
    assert fingerprint(other.pairs("any", 10, 0)) != fingerprint(pairs)


HEADER = ",".join(COLUMNS)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.csv", table(",", FIRST).encode("utf-16"), ": is UTF-16, not UTF-8; save it as UTF-8"),
        ("a.jsonl", LINES.encode("utf-16-le"), ": is UTF-16 or no text at all, not UTF-8"),
        ("a.csv", table(",", FIRST).encode("utf-32"), ": is UTF-32, not UTF-8"),
        ("a.csv", f"{HEADER}\n1,2,é,3\n".encode("latin-1"), ", line 2: is not UTF-8 text: byte 0xe9; save it as"),
        ("a.csv.gz", gzip.compress(b"clean", mtime=0)[:-4], ": cannot be read: "),
        ("a.csv.gz", b"\x1f\x8b" + b"\0" * 30, ": cannot be read: "),
        ("a.csv", b"", ": holds no pair"),
        ("a.csv", HEADER.encode(), ": holds no pair"),
        ("a.csv", b"clean,corrupted,answer\n", ", line 1: has no corrupted_answer; every row has clean"),
        ("a.csv", f"clean,{HEADER}\n".encode(), ", line 1: two columns are called clean"),
        ("a.csv", f"{HEADER},\n".encode(), ", line 1: a column has no name"),
        ("a.csv", HEADER.replace(",", ";").encode(), ", line 1: its columns are separated by ';', not ','"),
        ("a.csv", table(",", ['"1\n2 ="', "1 3 =", "3"]).encode(), ", line 2: has no corrupted_answer"),
        ("a.csv", table(",", ['"1\n2 ="', *FIRST[1:]], [*FIRST, "5"]).encode(), ", line 4: has 5 cells, and the"),
        ("a.csv", table(",", FIRST, ['"1 2 =', *FIRST[1:]]).encode(), ", line 3: is not CSV: unexpected end of data"),
        ("a.csv", table(",", ['"1"2 =', *FIRST[1:]]).encode(), ", line 2: is not CSV: "),
        ("a.csv", table(",", ["1 " * 100_000, *FIRST[1:]]).encode(), ", line 2: is not CSV: field larger than"),
        ("a.json", b"[{},\n{]", ", line 2: is not JSON: "),
        ("a.json", b"[" * 100_000, ": is not a JSON array of rows: "),
        ("a.json", b"[3]", ", item 1: is not a JSON object"),
        ("a.json", b'[{"clean": "1", "clean": "2"}]', "clean stands twice in an object"),
        ("a.jsonl", b'{"clean": "1", "clean": "2"}', ", line 1: clean stands twice in an object"),
        ("a.jsonl", json.dumps({**GOOD, "answer": 3}).encode(), 'write "3" for the text, .3. for the token id'),
        ("a.jsonl", json.dumps({**GOOD, "answer": [13]}).encode(), "neither text nor a list of token ids of the"),
        ("a.jsonl", json.dumps({**GOOD, "answer": [True]}).encode(), "neither text nor a list of token ids"),
        ("a.jsonl", json.dumps({**GOOD, "answer": True}).encode(), "neither text nor a list of .* of the model$"),
        ("a.jsonl", json.dumps({**GOOD, "answer": "\ud800"}).encode(), "has a token that the tokenizer does not know"),
        ("a.jsonl", json.dumps({"Clean": "1"}).encode(), "has no clean; every row has .*; did you mean Clean"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, tokenizer: Any, file: str, content: bytes, message: str
) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(RecipeError, match=f"^{re.escape(str(tmp_path / file))}.*{message}") as caught:
        FilePairs(tmp_path / file, tokenizer).pairs("any", 5, 0)
    assert "\n" not in str(caught.value)


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
