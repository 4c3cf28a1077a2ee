"""Write docs/api/, a page for each room of the package, from its docstrings: python docs/api_reference.py.

It reads the source and imports nothing. `make reference` does the same.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOME = ROOT / "pipeline"
PAGES = ROOT / "docs" / "api"
SECTIONS = ("Args", "Returns", "Raises", "Examples", "Yields")
HEAD = """\
# API reference

Written from the docstrings by `make reference`, a page a room; a room imports only those below it
([CONTRIBUTING](../../CONTRIBUTING.md#the-rooms)). In a notebook most goes through `Run` of [api](api.md).

"""
Definition = ast.FunctionDef | ast.ClassDef  # nothing here is async


def rooms() -> list[Path]:
    return sorted(path.parent for path in HOME.glob("*/__init__.py"))


def pages() -> dict[str, str]:
    """The text of every page by the name of its file."""
    found = {f"{room.name}.md": _room(room) for room in rooms()}
    lines = [f"- [{room.name}]({room.name}.md): {_first_line(room / '__init__.py')}" for room in rooms()]
    return {"README.md": HEAD + "\n".join(lines) + "\n", **found}


def _room(room: Path) -> str:
    parts = [f"# {room.name}", _text(ast.get_docstring(_tree(room / "__init__.py")) or "")]
    for path in sorted(room.glob("*.py")):
        if path.stem == "__main__" or not path.stem.startswith("_"):
            parts += _module(room, path)
    return "\n\n".join(filter(None, parts)) + "\n"


def _module(room: Path, path: Path) -> Iterator[str]:
    tree = _tree(path)
    if path.stem == "__main__":
        yield f"## python -m pipeline.{room.name}"
        yield f"```text\n{ast.get_docstring(tree) or ''}\n```"
        return
    yield f"## pipeline.{room.name}.{path.stem}"
    yield _text(ast.get_docstring(tree) or "")
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield from _definition(node)


def _definition(node: Definition) -> Iterator[str]:
    yield f"### {node.name}"
    yield f"```python\n{_signature(node)}\n```"
    yield _text(ast.get_docstring(node) or "")
    if isinstance(node, ast.ClassDef):
        rows = list(_parameters(node))
        if rows:
            yield "\n".join(["| parameter | default | what it is |", "|---|---|---|", *rows])
        for each in node.body:
            if isinstance(each, ast.FunctionDef) and not each.name.startswith("_") and ast.get_docstring(each):
                yield f"#### {node.name}.{each.name}"
                yield f"```python\n{_signature(each)}\n```"
                yield _text(ast.get_docstring(each) or "")


def _signature(node: Definition) -> str:
    """The first line of a definition as it is written, on one line."""
    marks = "".join(
        f"@{ast.unparse(mark)}\n"
        for mark in node.decorator_list
        if ast.unparse(mark) in ("property", "cached_property", "classmethod", "staticmethod")
    )
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, [*node.bases, *(word.value for word in node.keywords)]))
        takes = _constructor(node)
        return f"class {node.name}{f'({bases})' * bool(bases)}{f'{chr(10)}{node.name}({takes})' * (takes is not None)}"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{marks}{node.name}({ast.unparse(node.args)}){returns}"


def _constructor(node: ast.ClassDef) -> str | None:
    """What is written between the parentheses to make one: the arguments of `__init__`, or fields that are no keys."""
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and each.name == "__init__":
            return ast.unparse(each.args).removeprefix("self").removeprefix(", ")
    if next(_parameters(node), None) or {ast.unparse(base) for base in node.bases} - {"NamedTuple"}:
        return None  # keys have their table, and a base has fields of its own
    if not node.bases and not any(ast.unparse(mark).startswith("dataclass") for mark in node.decorator_list):
        return None
    fields = [
        each for each in node.body if isinstance(each, ast.AnnAssign) and "ClassVar" not in ast.unparse(each.annotation)
    ]
    told = [ast.unparse(each) for each in fields if not ast.unparse(each.target).startswith("_")]
    return (
        ", ".join(re.sub(r" = field\(default_factory=(\w+).*\)", r" = \1()", text) for text in told) if told else None
    )


def _parameters(node: ast.ClassDef) -> Iterator[str]:
    """A row for each key of a recipe that a class declares."""
    for each in node.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.value, ast.Call):
            call = each.value
            if ast.unparse(call.func) == "param" and len(call.args) > 1:
                default, about = ast.unparse(call.args[0]), call.args[1]
                words = about.value if isinstance(about, ast.Constant) else ast.unparse(about)
                cells = (f"`{ast.unparse(each.target)}: {ast.unparse(each.annotation)}`", f"`{default}`", str(words))
                yield f"| {' | '.join(_escaped(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _text(docstring: str) -> str:
    """A docstring as Markdown: its sections as lists, its examples as code."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):\n", docstring, flags=re.MULTILINE)
    found = [_escaped(parts[0].strip())]
    for title, body in zip(parts[1::2], parts[2::2]):
        after = re.search(r"^\S.*", body, re.DOTALL | re.MULTILINE)  # what is no longer indented
        block = body[: after.start()] if after else body
        lines = [line.removeprefix("    ") for line in block.strip("\n").splitlines()]
        if title == "Examples":
            found.append("Examples:\n\n```python\n" + "\n".join(lines) + "\n```")
        else:
            items = re.sub(r"\n +", " ", "\n".join(lines)).split("\n")
            found.append(f"{title}:\n\n" + "\n".join(f"- {_escaped(item)}" for item in items if item.strip()))
        found.append(_escaped(after[0].strip()) if after else "")
    return "\n\n".join(filter(None, found))


def _escaped(text: str) -> str:
    """Text in which nothing outside of code reads as a tag."""
    parts = text.split("`")
    return "`".join(part if i % 2 else part.replace("<", "&lt;").replace("*", r"\*") for i, part in enumerate(parts))


def _first_line(path: Path) -> str:
    return (ast.get_docstring(_tree(path)) or "").partition("\n")[0]


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def main() -> int:
    """Write what differs, and delete pages of rooms that are gone; returns 0."""
    PAGES.mkdir(parents=True, exist_ok=True)
    wanted = pages()
    for path in PAGES.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = PAGES / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
