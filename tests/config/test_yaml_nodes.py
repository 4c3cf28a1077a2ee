"""Any file and any command line becomes nodes, or one line that says where the mistake is and what it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.config.coerce import untyped
from pipeline.config.yaml_nodes import DEEPEST, Block, Items, Scalar, override, pairs, parse, place, read
from pipeline.utils.errors import LONGEST, RecipeError


def complaint(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecipeError) as caught:
        read(path)
    return str(caught.value).replace(f"{path.parent}{os.sep}", "")


def structure(node: Any) -> Any:
    """What a node holds, as plain text."""
    if isinstance(node, Block):
        return {key: structure(value) for key, value in node.entries.items()}
    return [structure(item) for item in node.items] if isinstance(node, Items) else node.text


def test_nodes_remember_text_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# head\nrate: 2e-5\nlist:\n  - yes\n  - 'no'\nblock: {a: 010, b: }\n")
    tree = read(path)
    assert structure(tree) == {"rate": "2e-5", "list": ["yes", "no"], "block": {"a": "010", "b": ""}}
    assert tree.entries["rate"] == Scalar("2e-5", f"{path}:2")
    assert tree.entries["list"].items[1] == Scalar("no", f"{path}:5", quoted=True)
    assert tree.places == {"rate": f"{path}:2", "list": f"{path}:3", "block": f"{path}:6"}


@pytest.mark.parametrize(
    "change", [str.encode, lambda text: ("\ufeff" + text).encode(), lambda text: text.replace("\n", "\r\n").encode()]
)
def test_bom_crlf_and_trailing_spaces_change_nothing(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(change("a: 1   \nb:\n  c: é  # comment\n\n"))
    assert structure(read(path)) == {"a": "1", "b": {"c": "é"}}


INDENT = "the indentation differs from the lines above, or text goes on after a quote"
TEXTS = {
    "": "a.yaml: is empty; a recipe is lines of key: value, such as max_steps: 1000",
    "# only\n\n# comments\n": "a.yaml: is empty; a recipe is lines of key: value, such as max_steps: 1000",
    "- a\n- b\n": "a.yaml: is a list; a recipe is lines of key: value, such as max_steps: 1000",
    "hello world\n": "a.yaml: holds no keys; a recipe is lines of key: value, such as max_steps: 1000",
    "42": "a.yaml: holds no keys; a recipe is lines of key: value, such as max_steps: 1000",
    "a: 1\n---\nb: 2\n": "a.yaml:2: a second document begins; a recipe is one, without ---",
    "a:\n\tb: 1\n": "a.yaml:2: is not YAML: there is a tab; write spaces",
    "a: 1\nb: 2\na: 3\n": "a.yaml:3: a: given twice, first at a.yaml:1",
    "x: {a: 1, a: 2}\n": "a.yaml:1: a: given twice, first at a.yaml:1",
    "a: 1\nseed 3\n": "a.yaml:2: is not YAML: a line has no colon; write key: value",
    "a: b: c\n": "a.yaml:1: is not YAML: a colon too many, or a wrong indentation; text with ': ' needs quotes",
    "a:\n  b: 1\n c: 2\n": f"a.yaml:3: is not YAML: {INDENT}",
    "a: 'x' y\n": f"a.yaml:1: is not YAML: {INDENT}",
    "a: 1\nb: {c: 1\nd: 2\n": "a.yaml:2: is not YAML: a block is not closed with }",
    "a: [1, 2\nb: 3\n": "a.yaml:1: is not YAML: a list is not closed with ]",
    "a: 1\nb: 'x\nc: 3\n": "a.yaml:2: is not YAML: a quote is not closed",
    "a: *\n": "a.yaml:1: is not YAML: text that begins with * or & must stand in quotes",
    "a: @x\n": "a.yaml:1: is not YAML: text that begins with @ must stand in quotes",
    "a: - x\n": "a.yaml:1: is not YAML: a list begins on a line of its own, or is written [a, b]",
    "a: ,\n": "a.yaml:1: is not YAML: a value is missing, or begins with a sign that needs quotes",
    "{a: 1}\nb: 2\n": "a.yaml:2: is not YAML: text goes on where a line of key: value was expected",
    'a: "\\d"\n': "a.yaml:1: is not YAML: \\d means nothing in double quotes; write single ones",
    'a: "\\UFFFFFFFF"\n': "a.yaml: is not YAML: an escape or a version in it is out of range",
    "%YAML 1." + "9" * 5000 + "\n---\na: 1\n": "a.yaml: is not YAML: an escape or a version in it is out of range",
    "a: 1\nb: \x01\n": "a.yaml:2: is not text: there is the character #x0001",
    "a: &x 1\n": "a.yaml:1: anchors (&) and aliases (*) are not used; write the value out, or quote the text",
    "a: *x\n": "a.yaml:1: anchors (&) and aliases (*) are not used; write the value out, or quote the text",
    "a: !!int 1\n": "a.yaml:1: the tag tag:yaml.org,2002:int is not allowed; write a plain value, or quote the text",
    "a: !x\n": "a.yaml:1: the tag !x is not allowed; write a plain value, or quote the text",
    "<<: {a: 1}\n": "a.yaml:1: <<: keys are not merged; write them out",
    "? [a]\n: 1\n": "a.yaml:1: this is no key; a key is a word",
    "? {a: 1}\n: 1\n": "a.yaml:1: this is no key; a key is a word",
    "'': 1\n": "a.yaml:1: this is no key; a key is a word",
    '"a\\nb": 1\n': "a.yaml:1: this is no key; a key is a word",
    "? " + "k" * 9000 + "\n: 1\n": "a.yaml:1: this is no key; a key is a word",
    "a: " + "[" * 90_000: f"a.yaml:1: is nested more than {DEEPEST} deep",
    "a: " + "{a: " * 100 + "}" * 100: f"a.yaml:1: is nested more than {DEEPEST} deep",
    "a: 1\n" * 50_000: "a.yaml: is larger than 100 kB; a recipe is a short YAML file",
}


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:20]))
def test_what_is_no_recipe_is_refused_with_its_line(text: str, tmp_path: Path) -> None:
    assert complaint(tmp_path / "a.yaml", text) == TEXTS[text]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "a.yaml: is a binary file; a recipe is YAML text"),
        (b"a: 1\n" * 50_000 + b"\0", "a.yaml: is larger than 100 kB; a recipe is a short YAML file"),
        ("a: 1".encode("utf-16"), "a.yaml: is UTF-16 text; save it as UTF-8"),
        ("a: 1".encode("utf-16-be"), "a.yaml: is a binary file; a recipe is YAML text"),
        ("a: 1\nb: café".encode("latin-1"), "a.yaml:2: is not UTF-8 text; save the file as UTF-8"),
    ],
)
def test_what_is_no_text_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    assert complaint(tmp_path / "a.yaml", content) == message


def test_tags_execute_nothing_and_aliases_do_not_grow(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    complaint(tmp_path / "a.yaml", f"a: !!python/object/apply:os.system ['touch {mark}']\n")
    assert not mark.exists()
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    assert "anchors" in complaint(tmp_path / "a.yaml", "\n".join(lines))


def test_a_file_that_is_not_there_meets_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def complaint_of(path: str) -> str:
        with pytest.raises(RecipeError) as caught:
            read(path)
        return str(caught.value)

    assert complaint_of("nowhere.yaml") == "nowhere.yaml: no such file"
    (tmp_path / "recipes").mkdir()
    for name in ("quickstart", "other"):
        (tmp_path / "recipes" / f"{name}.yaml").touch()
    for name in ("recipes/quikstart.yaml", "quickstart", "quickstart.yaml"):
        assert complaint_of(name).startswith(f"{name}: no such file; did you mean recipes/quickstart.yaml?")
    listed = "allowed: recipes/other.yaml, recipes/quickstart.yaml"
    assert complaint_of("recipes") == f"recipes: is a directory; name a recipe in it; {listed}"
    assert complaint_of("recipes/other.yaml/x") == "recipes/other.yaml/x: cannot be read: Not a directory"
    assert complaint_of("a\0b") == "a b: cannot be read: embedded null byte"
    assert complaint_of("x" * 300).endswith("cannot be read: File name too long")


def test_an_unreadable_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Root reads everything, so a mode of 0 would not do.
    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RecipeError) as caught:
        read("a.yaml")
    assert str(caught.value) == "a.yaml: cannot be read: Permission denied"


def test_an_error_is_one_line_and_not_endless() -> None:
    message = str(RecipeError("here", "key: " + "x\n\t\u2028" * 10_000 + " is not a number"))
    assert message.isprintable() and len(message) < LONGEST + 20
    assert message.startswith("here: key: x") and message.endswith("is not a number")


# Text as YAML has it, with all that is special to it, so that many of them parse.
PIECES = [
    *" \n\t:,-[]{}&*!|>'\"%@`#?~=",
    "\n  ",
    ": ",
    "- ",
    "---",
    "...",
    "!!",
    "<<",
    "\\x",
    "a",
    "key: 1\n",
    "null",
    "é",
    "\u2028",
]
yaml_like = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


@settings(max_examples=500)
@given(st.one_of(yaml_like, st.text()))
@example("%YAML 1.1\n%TAG ! x\n--- !a b")
@example("%TAG ! tag:x,1:\n--- !%ff a")
def test_any_text_is_nodes_or_one_line(text: str) -> None:
    try:
        node = parse(text, "file")
    except RecipeError as error:
        assert str(error).startswith("file") and len(str(error).splitlines()) == 1
        return
    # What is accepted has the structure that PyYAML sees.
    loaded = yaml.load(text, Loader=yaml.BaseLoader)
    assert structure(node) == ("" if loaded is None else loaded)


@given(st.binary())
def test_any_bytes_are_a_block_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        assert isinstance(read(path), Block)
    except RecipeError as error:
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--a", "1", "--b=2", "--c"], [("a", "1"), ("b", "2"), ("c", None)]),
        (["--a", "-1", "r.yaml", "--b"], [("a", "-1"), (None, "r.yaml"), ("b", None)]),
        (["--a", "--b", "x y"], [("a", None), ("b", "x y")]),
        (["--a=--b", "--c=", "--d==x"], [("a", "--b"), ("c", ""), ("d", "=x")]),
        (["--a="], [("a", "")]),
        ([], []),
    ],
)
def test_pairs(words: list[str], found: list[tuple[str | None, str | None]]) -> None:
    assert list(pairs(words)) == found


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--max-steps", "5"], {"max_steps": 5}),
        (["--a.b.c_d=2e-5", "--a.b.e", "-3"], {"a": {"b": {"c_d": 2e-5, "e": -3}}}),
        (["--flag"], {"flag": True}),
        (["--every", "[[10, 100], [5, null]]"], {"every": [[10, 100], [5, None]]}),
        (["--corpus", "{name: group, seed: 1}", "--corpus.seed=2"], {"corpus": {"name": "group", "seed": 2}}),
        (["--text", "a: b"], {"text": "a: b"}),
        (["--text", "#1 # not a comment"], {"text": "#1 # not a comment"}),
        (["--text", "'1'"], {"text": "1"}),
        (["--text", '"a\\tb"'], {"text": "a\tb"}),
        (["--text", "'it's"], {"text": "'it's"}),
        (["--text", "*"], {"text": "*"}),
        (["--text", "-"], {"text": "-"}),
        (["--text", "{open"], {"text": "{open"}),
        (["--seed", "1", "--seed", "2"], {"seed": 2}),
        (["--given.b", "1"], {"given": {"a": 0, "b": 1}}),
        (["--given", "{b: 1}"], {"given": {"b": 1}}),
        (["--empty.b", "1"], {"empty": {"b": 1}}),
    ],
)
def test_override(words: list[str], value: dict[str, Any]) -> None:
    tree = parse("given: {a: 0}\nempty:\n", "file")
    assert isinstance(tree, Block)
    override(tree, words)
    assert untyped(tree) == {"given": {"a": 0}, "empty": None} | value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed", "1"], "command line: seed: is not an override; write --key value or --block.key value"),
        (["--"], "command line: --: is not an override; write --key value or --block.key value"),
        (["--.a", "1"], "command line: --.a: is not an override; write --key value or --block.key value"),
        (["--a..b=1"], "command line: --a..b: is not an override; write --key value or --block.key value"),
        (["--<<=1"], "command line: --<<: is not an override; write --key value or --block.key value"),
        (["--given.a.b", "1"], "command line: given.a.b: a is not a block (see file:1)"),
    ],
)
def test_what_is_no_override_is_refused(words: list[str], message: str) -> None:
    tree = parse("given: {a: 0}", "file")
    assert isinstance(tree, Block)
    with pytest.raises(RecipeError) as caught:
        override(tree, words)
    assert str(caught.value) == message


def test_place_of_a_key() -> None:
    tree = parse("a:\n  b:\n    c: 1\nd.e: 2\n", "file")
    assert isinstance(tree, Block)
    override(tree, ["--a.x", "1"])
    for key, where in {
        "a.b.c": "file:3",
        "a.b.missing": "file:2",
        "a.missing": "file:1",
        "a.x": "command line",
        "d.e": "file:4",
        "missing": "",
    }.items():
        assert place(tree, key) == where
