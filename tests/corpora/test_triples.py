"""A user's own facts: every composition worked out again from the file, what is held out, and files of all kinds."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest

from pipeline.corpora._triple_files import LONGEST_NAME, MOST_BYTES
from pipeline.corpora.store import build
from pipeline.corpora.triples import Triples
from pipeline.utils.errors import ParameterError
from tests.corpora.facts import facts
from tests.tiny import ROOT

EXAMPLE = ROOT / "recipes" / "own_facts.csv"


def example() -> list[tuple[str, ...]]:
    """The facts of the example, as csv reads them, in the tokens that are trained."""
    with open(EXAMPLE, newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["head", "relation", "tail"]
    return [tuple(f"<{cell.replace(' ', '_')}>" for cell in row) for row in rows]


def write(folder: Path, text: str | bytes, name: str = "facts.csv") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_the_example_has_200_facts_which_fit_together() -> None:
    rows = example()
    assert len(rows) == len({row[:2] for row in rows}) == 200
    capitals = {head: tail for head, relation, tail in rows if relation == "<capital>"}
    back = {head: tail for head, relation, tail in rows if relation == "<capital_of>"}
    assert len(capitals) == 25 and back == {city: country for country, city in capitals.items()}


@pytest.mark.parametrize("invented", [0, 300])
@pytest.mark.parametrize("bridge", ["silent", "said"])
def test_every_answer_follows_from_two_facts_and_nothing_that_is_held_out_is_composed(
    bridge: str, invented: int
) -> None:
    rows = example()
    stored = build(Triples(bridge=bridge, invented=invented, iid_fraction=0.3, ood_fraction=0.15))
    told: dict[tuple[str, str], str] = {}
    kinds: dict[tuple[str, str], str] = {}
    trained = []
    for fact in facts(stored, "train"):
        if fact.type == "train_inferred":
            trained.append(fact)
        else:
            head, relation = fact.prompt
            assert fact.prompt not in told and fact.answer[1:] == ("</a>",)
            told[head, relation], kinds[head, relation] = fact.answer[0], fact.type
    assert {key: tail for key, tail in told.items() if kinds[key] != "invented_atomic"} == {
        (head, relation): tail for head, relation, tail in rows
    }
    made = [key for key, kind in kinds.items() if kind == "invented_atomic"]
    assert len(made) == invented
    tails = defaultdict(set)
    for _, relation, tail in rows:
        tails[relation].add(tail)
    assert all(told[key] in tails[key[1]] for key in made)
    assert sum(kind == "ood_atomic" for kind in kinds.values()) == 30

    def hops(prompt: tuple[str, ...], answer: tuple[str, ...]) -> tuple[str, str]:
        head, first, second = prompt
        middle = told[head, first]
        said = (middle,) if bridge == "said" else ()
        assert answer == (*said, told[middle, second], "</a>")
        return kinds[head, first], kinds[middle, second]

    used = {hop for fact in trained for hop in hops(fact.prompt, fact.answer)}
    assert used <= {"id_atomic", "invented_atomic"}
    assert {hops(fact.prompt, fact.answer) for fact in facts(stored, "id")} == {("id_atomic", "id_atomic")}
    assert {hops(fact.prompt, fact.answer) for fact in facts(stored, "ood")} == {("ood_atomic", "ood_atomic")}
    prompts = {split: {fact.prompt for fact in facts(stored, split)} for split in ("id", "ood")}
    prompts["train"] = {fact.prompt for fact in trained}
    everything = {
        (head, relation, other): (kinds[head, relation], kinds[middle, other])
        for (head, relation), middle in told.items()
        for between, other in told
        if between == middle
    }
    assert prompts["ood"] == {prompt for prompt, hop in everything.items() if hop == ("ood_atomic", "ood_atomic")}
    assert prompts["train"] | prompts["id"] == {prompt for prompt, hop in everything.items() if "ood_atomic" not in hop}


def test_a_ratio_draws_some_of_the_compositions_and_leaves_the_probes() -> None:
    every, some = (build(Triples(invented=300, ratio=ratio)) for ratio in (None, 1.5))
    ids = 180 + 300
    assert sum(fact.type == "train_inferred" for fact in facts(some, "train")) == round(1.5 * ids)
    for split in ("id", "ood", "id_atomic", "ood_atomic"):
        assert facts(every, split) == facts(some, split)
    with pytest.raises(ParameterError, match="ratio: 1000 asks for"):
        build(Triples(ratio=1000))
    with pytest.raises(ParameterError, match="invented: 100,000 is more than the"):
        build(Triples(invented=100_000))


def test_csv_tsv_and_both_kinds_of_json_say_the_same(tmp_path: Path) -> None:
    with open(EXAMPLE, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    objects = [dict(zip(("head", "relation", "tail"), row)) for row in rows]
    # Questions of 2WikiMultiHopQA carry their facts as evidences, and facts come back in several questions.
    questions = [{"_id": str(i), "question": "", "evidences": rows[i : i + 3]} for i in range(len(rows))]
    moved = "\n".join(["note\ttail\tHead\trelation", *(f"x\t{tail}\t {head} \t{name}" for head, name, tail in rows)])
    paths = [
        write(tmp_path, "\ufeff" + EXAMPLE.read_text(encoding="utf-8").replace("\n", "\r\n\r\n")),
        write(tmp_path, moved, "facts.tsv"),
        write(tmp_path, json.dumps(objects), "facts.json"),
        write(tmp_path, "\n".join(map(json.dumps, objects)), "facts.jsonl"),
        write(tmp_path, json.dumps(questions), "dev.json"),
    ]
    assert {build(Triples(path=path)).content_hash for path in paths} == {build(Triples()).content_hash}


def test_other_facts_under_the_same_path_are_another_corpus(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    path = write(tmp_path, text)
    before = build(Triples(path=path)).content_hash
    write(tmp_path, text.replace("Black Sea", "Red Sea"))
    assert build(Triples(path=path)).content_hash != before


def test_names_that_are_taken_get_a_number(tmp_path: Path) -> None:
    rows = ["head,relation,tail", "a b,a b,a_b", "a_b,x,mask", "mask,x,reserved_1", "reserved_1,x,a b", "pad,x,a_b_2"]
    corpus = Triples(path=write(tmp_path, "\n".join(rows)), ood_fraction=0.4, iid_fraction=0.5)
    assert corpus.entities == ["a b", "a_b", "mask", "reserved_1", "pad", "a_b_2"]
    assert corpus.vocabulary()[:8] == [
        "<a_b>", "<a_b_2>", "<mask_2>", "<reserved_1_2>", "<pad_2>", "<a_b_2_2>", "<a_b_3>", "<x>",
    ]  # fmt: skip
    assert len(set(corpus.tokens())) == len(corpus.tokens())


BAD = {
    "is not there": None,
    "holds no fact; allowed: rows of head, relation, tail": "head,relation,tail\n",
    "line 1: has no relation; every row has head, relation, tail; did you mean relations?": (
        "head,relations,tail\na,b,c\n"
    ),
    "line 1: has no head": "a,b,c\nd,e,f\n",
    "line 1: two columns are called tail": "head,relation,tail,tail\na,b,c,d\n",
    "line 3: has no tail": "head,relation,tail\na,b,c\na,b\n",
    "line 2: has 4 cells, and the header 3": "head,relation,tail\na,b,c,d\n",
    "line 2: relation is empty": "head,relation,tail\na, ,c\n",
    "line 4: 'a' 'b' is 'd', and 'c' at line 2": "head,relation,tail\na,b,c\nc,b,a\na,b,d\n",
    "is UTF-16 or no text at all, not UTF-8": "head,relation,tail\na,b,c\na\0,b,d\n",
    "line 2: head '\\x1b[31m' holds a control character": "head,relation,tail\n\x1b[31m,b,c\n",
    "line 2: tail '<c>' holds a control character, a < or a >": "head,relation,tail\na,b,<c>\n",
    f"line 2: head has 300 characters; allowed: {LONGEST_NAME}": f"head,relation,tail\n{'a' * 300},b,c\n",
    "line 3: is not UTF-8 text: byte 0xff": b"head,relation,tail\na,b,c\n\xff,b,d\n",
    "line 2: is not CSV": 'head,relation,tail\n"a"x,b,c\n',
    "field larger than field limit": f"head,relation,tail\n{'a' * 200_000},b,c\n",
    "has more than 64 MB": b"head,relation,tail\n" + b"a" * MOST_BYTES,
    "there is nothing to compose": "head,relation,tail\na,b,c\nd,b,e\n",
}


@pytest.mark.parametrize("message", BAD)
def test_a_table_that_is_wrong_is_one_line(message: str, tmp_path: Path) -> None:
    content = BAD[message]
    path = str(tmp_path / "facts.csv") if content is None else write(tmp_path, content)
    check(path, message)


BAD_JSON = {
    "is not JSON": "[1, 2",
    "item 1: is not a JSON object": "[1]",
    "item 2: has no tail; allowed: head, relation, tail, or evidences": (
        '[{"head": "a", "relation": "b", "tail": "c"}, {"head": "a", "relation": "b"}]'
    ),
    "item 1: head is no text": '[{"head": 1, "relation": "b", "tail": "c"}]',
    "item 1: evidences is no list": '[{"evidences": {"a": 1}}]',
    "item 1: evidences holds what is no list": '[{"evidences": [["a", "b"]]}]',
    "line 2: is not a JSON object": '{"head": "a", "relation": "b", "tail": "c"}\nx',
    "facts.json: is not a JSON array of rows: ": "[" * 100_000,
    "item 1: tail '\\ud800' holds a control character": '[{"head": "a", "relation": "b", "tail": "\\ud800"}]',
}


@pytest.mark.parametrize("message", BAD_JSON)
def test_json_that_is_wrong_is_one_line(message: str, tmp_path: Path) -> None:
    check(write(tmp_path, BAD_JSON[message], "facts.json"), message)


def check(path: str, message: str) -> None:
    with pytest.raises(ParameterError) as error:
        build(Triples(path=path))
    assert error.value.key == "path" and message in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    check(str(tmp_path), "is no file")
    check("/dev/zero", "is no file")
    check(write(tmp_path, "", "facts.xlsx"), "allowed: .csv, .tsv, .json, .jsonl")


def test_the_first_of_several_tails_is_kept_where_that_is_wanted(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    path = write(tmp_path, text + "France,capital,Lyon\n")
    check(path, "'France' 'capital' is 'Lyon', and 'Paris' at line 2")
    kept = build(Triples(path=path, several_tails="first"))
    assert kept.content_hash == build(Triples()).content_hash
