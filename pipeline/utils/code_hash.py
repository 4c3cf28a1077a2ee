"""Hashes of the code that something was computed with, so that it does not outlive what computed it."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_hash(modules: Iterable[str], package: str, functions: Iterable[Callable[..., Any]] = ()) -> str:
    """Hash the code of some modules, of those of `package` that they import, and of further functions.

    Comments, docstrings and layout do not count, nor do modules that only stand in the package.
    """
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name], imported = _parsed(_source_text(name))
            waiting += [other for other in imported if other.startswith(f"{package}.") and _file(other).is_file()]
    texts = [f"{name}\n{found[name]}" for name in sorted(found)]
    texts += [_code_of(function) for function in functions]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


@functools.cache
def _parsed(source: str) -> tuple[str, tuple[str, ...]]:
    """Return the code of a module without comments, docstrings and layout, and the names of all that it imports.

    What a process builds or looks at after the first time needs no parsing, which takes longer than a small corpus.
    """
    tree = ast.parse(source)
    imported = tuple(_imports(tree))
    return _bare(tree), imported


@functools.cache
def _code_of(function: Callable[..., Any]) -> str:
    return _parsed(inspect.getsource(function))[0]


def _source_text(module: str) -> str:
    if (file := _file(module)).is_file():
        return file.read_text(encoding="utf-8")
    return inspect.getsource(sys.modules[module])  # of who extends this package


def _file(module: str) -> Path:
    """Return where a module of this package lies, if there is one; looking it up imports nothing."""
    return Path(__file__).parents[2].joinpath(*module.split(".")).with_suffix(".py")


def _imports(tree: ast.AST) -> Iterator[str]:
    """Yield the names of all that is imported anywhere in a module, by absolute names; some may be no modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _bare(tree: ast.Module) -> str:
    """Return the code without comments, docstrings and layout."""
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
