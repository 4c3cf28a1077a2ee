"""The rooms of the package: which may import which, and what may stand in them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from pipeline.config.registry import ROOMS as REGISTRY
from tests.tiny import ROOT

HOME = ROOT / "pipeline"
# A room imports those before it, and no other; the entries import all of them, and nobody imports an entry.
ROOMS = (
    "utils", "config", "corpora", "runs", "data", "kernels", "models", "objectives", "optim", "collators", "plots",
    "callbacks", "circuits", "training", "report", "hub", "sweep", "api", "evaluate", "ask", "claims",
)  # fmt: skip
ENTRIES = {"run", "checkpoints", "__main__"}  # beside the rooms; in a room, `__main__`
# A recipe's mistake is answered before torch is imported: these import it, and transformers, in functions alone.
LIGHT = (
    "utils",
    "config",
    "corpora",
    "runs",
    "objectives",
    "optim",
    "collators",
    "callbacks",
    "hub",
    "sweep",
    "api",
    "claims",
)
HEAVY = {"torch", "transformers", "accelerate", "datasets", "peft", "deepspeed"}


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name without `pipeline.`; a package by its room's name."""
    found = {}
    for path in sorted(HOME.rglob("*.py")):
        parts = path.relative_to(HOME).with_suffix("").parts
        if "shipped" not in parts:
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str) -> Iterator[tuple[str, int]]:
    """The modules of the package that a module imports, anywhere in it and for types too, with lines."""
    for node in ast.walk(ast.parse(modules()[name].read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name[9:], node.lineno) for alias in node.names if alias.name.startswith("pipeline."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pipeline":
            home = (node.module or "")[9:]
            for alias in node.names:
                inner = f"{home}.{alias.name}".strip(".")
                yield (inner if inner in modules() else home), node.lineno


def room(name: str) -> str:
    return name.partition(".")[0]


def is_entry(name: str) -> bool:
    return name in ENTRIES or name.endswith(".__main__")


def picture() -> str:
    """The rooms from the top down, each with those that it imports; `*` marks those whose files are entries."""
    uses: dict[str, set[str]] = {name: set() for name in ROOMS}
    for name in modules():
        if room(name) in uses and not is_entry(name):
            uses[room(name)] |= {room(other) for other, _ in imports(name) if room(other) in uses} - {room(name)}
    lines = ["entries      import all rooms, and nobody imports them: run.py, __main__.py, ROOM/__main__.py"]
    for name in reversed(ROOMS):
        star = "*" if name in REGISTRY else " "
        lines.append(f"{name + star:<12} {' '.join(other for other in ROOMS if other in uses[name])}".rstrip())
    return "\n".join(f"    {line}" for line in lines) + "\n"


def test_the_guide_has_the_picture_of_the_rooms() -> None:
    assert picture() in (ROOT / "CONTRIBUTING.md").read_text(), f"write into CONTRIBUTING.md:\n{picture()}"


def test_every_file_stands_in_a_room() -> None:
    beside = {name for name in modules() if "." not in name and modules()[name].name != "__init__.py"}
    assert beside == ENTRIES
    assert {room(name) for name in modules() if "." in name} == set(ROOMS)
    assert all(name.count(".") <= 1 for name in modules())


def test_tests_stand_in_the_rooms_of_what_they_test() -> None:
    assert {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")} <= set(ROOMS)


@pytest.mark.parametrize("room_name", ROOMS)
def test_a_room_says_what_it_is_for(room_name: str) -> None:
    tree = ast.parse((HOME / room_name / "__init__.py").read_text())
    assert ast.get_docstring(tree) and len(tree.body) == 1


def test_no_room_imports_one_above_it() -> None:
    wrong = [
        f"{name}:{line} imports {other}"
        for name in modules()
        if not is_entry(name) and room(name) in ROOMS
        for other, line in imports(name)
        if other and room(other) in ROOMS and ROOMS.index(room(other)) > ROOMS.index(room(name))
    ]
    assert wrong == []


def test_nobody_imports_an_entry() -> None:
    wrong = [
        f"{name}:{line} imports {other}"
        for name in modules()
        for other, line in imports(name)
        if is_entry(other) and not is_entry(name)
    ]
    assert wrong == []


# A group of algebra and a group of curves; the paper of a recipe and that of a claim.
SHARED = {"Group", "Paper"}


def test_a_class_has_a_name_of_its_own() -> None:
    found: dict[str, list[str]] = {}
    for name, path in modules().items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(name)
    assert {kind: homes for kind, homes in found.items() if len(homes) > 1 and kind not in SHARED} == {}


def test_no_files_import_each_other() -> None:
    try:
        list(TopologicalSorter({name: {other for other, _ in imports(name)} for name in modules()}).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_light_rooms_import_torch_in_functions_alone() -> None:
    wrong = []
    for name in modules():
        if room(name) in LIGHT or is_entry(name):
            tree = ast.parse(modules()[name].read_text())
            for node in tree.body:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                wrong += [f"{name}:{node.lineno}" for module in names if module.partition(".")[0] in HEAVY]
    assert wrong == []


@pytest.mark.parametrize("entry", ["run", "sweep.__main__", "config.recipe"])
def test_reading_a_recipe_needs_no_torch(entry: str) -> None:
    tables = set() if entry == "sweep.__main__" else {"pyarrow", "pandas", "matplotlib"}  # each a tenth of a second
    heavy = HEAVY | tables
    code = f"import sys, pipeline.{entry}; sys.exit(bool({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
