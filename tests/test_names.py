"""Files and modules that documents, docstrings and comments name are there, under the names that they have now."""

from __future__ import annotations

import ast
import importlib
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tests.test_contributing import SHOWN
from tests.test_layers import ROOMS
from tests.tiny import ROOT

DOCUMENTS = [
    path
    for pattern in ("*.md", "docs/*.md", "recipes/*", ".github/**/*.*", "accelerate_configs/*", "Makefile", ".ci/*")
    for path in sorted(ROOT.glob(pattern))
    if path.is_file()
]
CODE = sorted(path for room in ("pipeline", "tests") for path in (ROOT / room).rglob("*.py"))
FILES = {path.name for path in CODE} | {Path(path).name for path in SHOWN}
FOREIGN = {"pair_sums.py", "app.py"}  # an example, and what a Space calls its app
FILE = re.compile(r"(?<![\w./<>{}*-])(?:[a-z_]+/)*[a-z_0-9]+\.py\b")
MODULE = re.compile(
    r"\bpipeline(?:\.[A-Za-z_]\w*)+|(?<=`)(?:" + "|".join(ROOMS) + r")\.(?!html|json|yaml|py)[a-z_]+(?=`)"
)


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """The docstrings and comments of a file of code, with their lines; a document is prose as a whole."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (said := ast.get_docstring(node)):
            yield node.body[0].lineno, said
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def is_there(name: str) -> bool:
    """Whether a dotted name is a module of the package, or stands in one; `pipeline.` may be left out."""
    parts = ["pipeline", *name.removeprefix("pipeline.").split(".")]
    if "/".join(parts) + ".py" in SHOWN:
        return True
    for end in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:end])
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            found = importlib.import_module(".".join(parts[:end]))
            return len(parts) == end or hasattr(found, parts[end])
    return False


def test_every_file_and_module_that_is_named_exists() -> None:
    wrong = []
    for path in [*DOCUMENTS, *CODE]:
        for line, said in prose(path):
            for file in FILE.findall(said):
                homes = (ROOT, ROOT / "pipeline", ROOT / "tests", path.parent)
                known = any((home / file).is_file() for home in homes) or any(name.endswith(file) for name in SHOWN)
                if not known and ("/" in file or file not in FILES) and file not in FOREIGN:
                    wrong.append(f"{path.relative_to(ROOT)}:{line} {file}")
            wrong += [f"{path.relative_to(ROOT)}:{line} {name}" for name in MODULE.findall(said) if not is_there(name)]
    assert not wrong, "\n".join(wrong)
