"""Reading YAML and command-line words so that every mistake can be named by its place.

PyYAML guesses types before it knows what a key means: `2e-5` becomes text, `no` becomes False. So the document is kept
as nodes that remember their text and their place, and `pipeline.config.coerce` types a value once its parameter is
known. Tags and aliases are refused, so a document executes nothing and cannot grow.
"""

from __future__ import annotations

import codecs
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from pipeline.utils.errors import RecipeError
from pipeline.utils.suggest import did_you_mean

MOST_BYTES = 100_000
DEEPEST = 20  # blocks within blocks; reading is recursive
LONGEST_KEY = 100
NULLS = ("", "~", "null")
COMMAND_LINE = "command line"  # the place of what was typed there
STAGE = "model.recipe."  # begins the keys there that are for the earlier stage
RECIPES = Path("recipes")  # where a recipe is looked for that is not where it was said to be

# What PyYAML says -> what it means to whoever wrote the file, and whether it began where PyYAML's context did.
PROBLEMS = {
    r"found character '\\t'": ("there is a tab; write spaces", False),
    r"found character '(.)' that cannot start": (r"text that begins with \1 must stand in quotes", False),
    r"unknown escape character '(.)'": (r"\\\1 means nothing in double quotes; write single ones", False),
    r"expected alphabetic or numeric": ("text that begins with * or & must stand in quotes", False),
    r"expected ',' or '\]'": ("a list is not closed with ]", True),
    r"expected ',' or '\}'": ("a block is not closed with }", True),
    r"unexpected end of stream": ("a quote is not closed", True),
    r"could not find expected ':'": ("a line has no colon; write key: value", True),
    r"mapping values are not allowed": ("a colon too many, or a wrong indentation; text with ': ' needs quotes", False),
    r"expected <block end>": ("the indentation differs from the lines above, or text goes on after a quote", False),
    r"expected the node content": ("a value is missing, or begins with a sign that needs quotes", False),
    r"expected '<document start>'": ("text goes on where a line of key: value was expected", False),
    r"sequence entries are not allowed": ("a list begins on a line of its own, or is written [a, b]", False),
}


@dataclass(frozen=True)
class Scalar:
    """A value without parts; `text` is None for a command-line key that stands alone, which can only mean true.

    `note`: why a text that looks like a list or a block is none.
    """

    text: str | None
    where: str
    quoted: bool = False
    note: str = ""

    @property
    def is_null(self) -> bool:
        return not self.quoted and self.text is not None and self.text.strip().lower() in NULLS


@dataclass(frozen=True)
class Items:
    items: list[Node]
    where: str
    text: str | None = None  # as typed on the command line, where it may be meant as text after all


@dataclass(frozen=True)
class Block:
    """A mapping; `places` says where each key stands."""

    entries: dict[str, Node]
    where: str
    places: dict[str, str] = field(default_factory=dict)
    text: str | None = None


Node: TypeAlias = "Scalar | Items | Block"


def read(path: str | Path) -> Block:
    """Return the mapping in a YAML file.

    Raises:
        RecipeError: when the file cannot be read, is not YAML, or is not a mapping with unique keys.
    """
    node = parse(_file_text(Path(path)), str(path))
    if isinstance(node, Block):
        return node
    what = "is a list" if isinstance(node, Items) else "is empty" if node.text == "" else "holds no keys"
    raise RecipeError(str(path), f"{what}; a recipe is lines of key: value, such as max_steps: 1000")


def _file_text(path: Path) -> str:
    where = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        recipes = _recipes(path.parent) or _recipes(RECIPES)
        near = did_you_mean(where, recipes, f"recipes are in {RECIPES}" if recipes else "")
        raise RecipeError(where, f"no such file{near}") from None
    except IsADirectoryError:
        raise RecipeError(where, f"is a directory; name a recipe in it{did_you_mean('', _recipes(path))}") from None
    except (OSError, ValueError) as error:  # ValueError: a path that no system allows
        raise RecipeError(where, f"cannot be read: {getattr(error, 'strerror', error)}") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise RecipeError(where, "is UTF-16 text; save it as UTF-8")
    if b"\0" in content:
        raise RecipeError(where, "is a binary file; a recipe is YAML text")
    if len(content) > MOST_BYTES:
        raise RecipeError(where, "is larger than 100 kB; a recipe is a short YAML file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{where}:{line}", "is not UTF-8 text; save the file as UTF-8") from None


def _recipes(folder: Path) -> list[str]:
    return sorted(str(file) for file in folder.glob("[!.]*.yaml")) if folder.is_dir() else []


def parse(text: str, source: str, line_numbers: bool = True) -> Node:
    """YAML text as nodes; `source` names it in errors, with line numbers where they help.

    Raises:
        RecipeError: when the text is not YAML, holds a tag, an alias, a duplicate key or a second document.
    """

    def place(line: int) -> str:
        return f"{source}:{line + 1}" if line_numbers else source

    root: Node = Scalar("", source)
    documents = 0
    events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
    try:
        for event in events:
            where = place(event.start_mark.line)
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise RecipeError(where, "a second document begins; a recipe is one, without ---")
            elif isinstance(event, yaml.NodeEvent):
                root = _node(event, events, place, 0)
    except yaml.reader.ReaderError as error:
        where = place(text.count("\n", 0, error.position))
        raise RecipeError(where, f"is not text: there is the character #x{error.character:04x}") from None
    except yaml.MarkedYAMLError as error:
        line, meaning = _explained(error)
        raise RecipeError(place(line), meaning) from None
    except (ValueError, OverflowError):  # PyYAML on an escape or a version number beyond all bounds
        raise RecipeError(source, "is not YAML: an escape or a version in it is out of range") from None
    return root


def _explained(error: yaml.MarkedYAMLError) -> tuple[int, str]:
    """Line and meaning of what PyYAML found."""
    problem, mark = " ".join(str(error.problem).split()), error.problem_mark
    for pattern, (meaning, at_context) in PROBLEMS.items():
        if match := re.search(pattern, problem):
            problem, mark = match.expand(meaning), error.context_mark if at_context else mark
            break
    return mark.line if mark else 0, f"is not YAML: {problem}"


def _node(event: Any, events: Iterator[Any], place: Callable[[int], str], depth: int) -> Node:
    """Return the node that begins with `event`; takes its other events off the iterator."""
    where = place(event.start_mark.line)
    if isinstance(event, yaml.AliasEvent) or event.anchor:
        raise RecipeError(where, "anchors (&) and aliases (*) are not used; write the value out, or quote the text")
    if event.tag:
        raise RecipeError(where, f"the tag {event.tag} is not allowed; write a plain value, or quote the text")
    if depth > DEEPEST:
        raise RecipeError(where, f"is nested more than {DEEPEST} deep")
    if isinstance(event, yaml.ScalarEvent):
        return Scalar(event.value, where, quoted=event.style is not None)
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_node(event, events, place, depth + 1))
        return Items(items, where)
    block = Block({}, where)
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key = _node(event, events, place, depth + 1)
        if not isinstance(key, Scalar) or not key.text or not _is_key(key.text):
            is_merge = isinstance(key, Scalar) and key.text == "<<"
            problem = "<<: keys are not merged; write them out" if is_merge else "this is no key; a key is a word"
            raise RecipeError(key.where, problem)
        if key.text in block.entries:
            raise RecipeError(key.where, f"{key.text}: given twice, first at {block.places[key.text]}")
        block.places[key.text] = key.where
        block.entries[key.text] = _node(next(events), events, place, depth + 1)
    return block


def _is_key(text: str) -> bool:
    """Not what asks YAML to merge keys, nor what no message could show."""
    return 0 < len(text) <= LONGEST_KEY and text.isprintable() and text != "<<"


def pairs(words: Sequence[str]) -> Iterator[tuple[str | None, str | None]]:
    """Key and value of each `--key value`, `--key=value` or lone `--key`; any other word is a value without a key."""
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        if not word.startswith("--"):
            yield None, word
            continue
        key, equals, value = word[2:].partition("=")
        if equals:
            yield key, value
        else:
            yield key, rest.pop() if rest and not rest[-1].startswith("--") else None


def split_stage(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the overrides of a recipe, and those of its earlier stage, whose keys begin with `model.recipe.`."""
    own, stage = list[str](), list[str]()
    for key, value in pairs(words):
        name = (key or "").replace("-", "_")
        is_own = not name.startswith(STAGE)
        word = f"--{key if is_own else name.removeprefix(STAGE)}" + ("" if value is None else f"={value}")
        (own if is_own else stage).append(word if key is not None else str(value))
    return own, stage


def override(tree: Block, words: Sequence[str]) -> None:
    """Puts values from the command line into the tree: `--max_steps 100`, `--corpus.ratio=18`, `--logging-first-step`.

    A list, a block or a quoted text is read as YAML, anything else as it stands. The last one of a key counts.

    Raises:
        RecipeError: when a word is not an override, or a key leads into something that is not a block.
    """
    for key, value in pairs(words):
        if key is None or not all(map(_is_key, key.split("."))):
            word = value if key is None else f"--{key}"
            raise RecipeError(COMMAND_LINE, f"{word}: is not an override; write --key value or --block.key value")
        _put(tree, key.replace("-", "_"), _value_node(value))


def _value_node(value: str | None, where: str = COMMAND_LINE) -> Node:
    if value is None or not value.startswith(("[", "{", '"', "'")):
        return Scalar(value, where)
    try:
        node = parse(value, where, line_numbers=False)
    except RecipeError as error:
        return Scalar(value, where, note=error.message)
    return node if isinstance(node, Scalar) else dataclasses.replace(node, text=value)


def _put(tree: Block, key: str, node: Node) -> None:
    *path, last = key.split(".")
    for part in path:
        inner = tree.entries.get(part)
        if inner is None or (isinstance(inner, Scalar) and inner.is_null):
            inner = Block({}, node.where)
            tree.entries[part] = inner
            tree.places.setdefault(part, node.where)
        if not isinstance(inner, Block):
            raise RecipeError(node.where, f"{key}: {part} is not a block (see {tree.places[part]})")
        tree = inner
    tree.entries[last], tree.places[last] = node, node.where


def place(tree: Block, key: str) -> str:
    """Return where a dotted key stands, or the nearest block around it."""
    where = ""
    node: Node = tree
    for part in [key] if key in tree.entries else key.split("."):
        if not isinstance(node, Block) or part not in node.entries:
            break
        where, node = node.places[part], node.entries[part]
    return where
